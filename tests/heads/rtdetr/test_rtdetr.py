"""RT-DETR beyond the contract of all heads and its parity: images, limits, merged blocks and transforms."""

import numpy as np
import pytest
import torch
from torch import nn

from densevit.data.transforms.sample_augmentation import centred
from densevit.errors import ConfigError
from densevit.interfaces import Window
from densevit.set_prediction.transformer import Transformer
from densevit_heads.parts.convolutions import RepVggBlock
from densevit_heads.parts.hybrid_encoder import HybridEncoderOptions
from densevit_heads.rtdetr import RtDetr
from densevit_heads.rtdetr.augmentation import PlainStretch, Stretch, iou_crop
from tests.heads.padded_batch import CLASSES, padded_batch, perturbed


def test_a_layer_learns_from_the_boxes_of_the_next():
    """Look forward twice: the box of a layer moves with the offsets of the layer before, but not with earlier ones."""
    transformer, encoder = Transformer(32, 2, 1, 3, 24, 0.0), HybridEncoderOptions(16, 24, 0.5)
    head = RtDetr((6, 10), (8, 16), CLASSES, 7, encoder, transformer, contrastive_denoising=0)
    features, mask, _ = padded_batch((1,), ((6, 8), (10, 16)))
    boxes = perturbed(head)(features, mask)["layers"][1]
    gradients = torch.autograd.grad(boxes[2].sum(), [layer.last.weight for layer in head.box_heads])
    assert [bool(gradient.any()) for gradient in gradients] == [False, True, True]


@pytest.mark.parametrize("width", [1, 7, 16])
def test_a_merged_block_is_one_convolution_with_equal_outputs(width: int):
    block = RepVggBlock(width).eval()
    for tensor in block.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.2, 1.0)
    x = torch.randn(2, width, 9, 6)
    merged = block.merged()
    torch.testing.assert_close(merged(x), block(x), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in merged.parameters()) == 9 * width**2 + width
    assert [type(m) for m in merged.modules() if not isinstance(m, nn.Sequential)] == [nn.Conv2d, nn.SiLU]


HEIGHT, WIDTH = 48, 90
BOXES = np.array([[3, 5, 25, 30], [40, 10, 88, 46], [60, 2, 64, 7]], np.float32)


def test_stretch_has_one_size():
    stretch = Stretch((32, 64))
    assert stretch.evaluation_size(480, 640) == stretch.canvas == stretch.evaluation_canvas == (32, 64)
    assert Stretch(640).size == (640, 640)
    plain = PlainStretch((32, 64))  # D-FINE's last epochs: the whole image in its own colours
    assert plain.color_augmentation == "none" and plain.evaluation_size(48, 90) == (32, 64)
    frame = plain.training_crop_with_boxes(48, 90, np.random.default_rng(0))
    assert frame.window == (0, 0, 48, 90) and frame.size == (32, 64)
    with pytest.raises(ConfigError, match=r"data\.image_size is missing"):
        Stretch(None)


def statistics(windows: list[Window]) -> np.ndarray:
    """The share of whole images; means and standard deviations of the edges, as shares of the sides."""
    shares = np.array(windows, np.float64) / (HEIGHT, WIDTH, HEIGHT, WIDTH)
    whole = np.mean([window == (0, 0, HEIGHT, WIDTH) for window in windows])
    return np.array([whole, *shares.mean(0), *shares.std(0)])


@pytest.mark.integration
def test_crops_and_borders_are_distributed_as_torchvisions():
    """Images without boxes are not cropped, so their frames show the border alone."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    rng, image = np.random.default_rng(0), torch.zeros(3, HEIGHT, WIDTH)
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=(HEIGHT, WIDTH))
    crop, border, stretch = v2.RandomIoUCrop(), v2.RandomZoomOut(p=1.0), Stretch((32, 64))
    crops: list[Window] = []
    borders: list[Window] = []
    for _ in range(2000):
        drawn = crop.make_params([image, boxes])
        top, left = drawn.get("top", 0), drawn.get("left", 0)
        crops.append((top, left, top + drawn.get("height", HEIGHT), left + drawn.get("width", WIDTH)))
        if drawn:  # the rule by which objects are kept
            assert drawn["is_within_crop_area"].tolist() == centred(BOXES, crops[-1]).tolist()
        left, top, right, bottom = border.make_params([image])["padding"]
        borders.append((-top, -left, HEIGHT + bottom, WIDTH + right))
    ours = [iou_crop(BOXES, (HEIGHT, WIDTH), rng) for _ in range(2000)]
    np.testing.assert_allclose(statistics(ours), statistics(crops), atol=0.03, rtol=0)
    framed = [stretch.training_crop_with_boxes(HEIGHT, WIDTH, rng).window for _ in range(4000)]
    enlarged = [window for window in framed if window != (0, 0, HEIGHT, WIDTH)]
    assert abs(len(enlarged) / len(framed) - 0.5) < 0.03
    np.testing.assert_allclose(statistics(enlarged), statistics(borders), atol=0.06, rtol=0)
    assert iou_crop(np.zeros((0, 4), np.float32), (HEIGHT, WIDTH), rng) == (0, 0, HEIGHT, WIDTH)
