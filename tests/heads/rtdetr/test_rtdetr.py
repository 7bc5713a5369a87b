"""RT-DETR beyond the contract of all heads and its parity: images, limits, merged blocks and transforms."""

import numpy as np
import pytest
import torch
from torch import nn

from densevit.errors import ConfigError
from densevit.set_prediction.transformer import Transformer
from densevit_heads.parts.convolutions import RepVggBlock
from densevit_heads.parts.hybrid_encoder import HybridEncoderOptions
from densevit_heads.rtdetr import RtDetr
from densevit_heads.rtdetr.augmentation import PlainStretch, Stretch
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
