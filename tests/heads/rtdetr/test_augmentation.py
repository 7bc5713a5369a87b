"""The border and the crop of RT-DETR's and D-FINE's transforms, against torchvision's transforms."""

import numpy as np
import pytest
import torch

from densevit.data.transforms.augmentation import centred
from densevit.errors import ConfigError
from densevit.interfaces import Window
from densevit.targets import InstanceMasks, RunLengthMasks
from densevit_heads.rtdetr.augmentation import PlainStretch, Stretch, iou_crop

HEIGHT, WIDTH = 48, 90
BOXES = np.array([[3, 5, 25, 30], [40, 10, 88, 46], [60, 2, 64, 7]], np.float32)


def test_stretch_has_one_size():
    stretch = Stretch((32, 64))
    assert stretch.evaluation_size(480, 640) == stretch.canvas == stretch.evaluation_canvas == (32, 64)
    assert Stretch(640).size == (640, 640)
    plain = PlainStretch((32, 64))  # D-FINE's last epochs: the whole image in its own colours
    assert plain.recoloring == "none" and plain.evaluation_size(48, 90) == (32, 64)
    frame = plain.training_frame_with_boxes(48, 90, np.random.default_rng(0))
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
    framed = [stretch.training_frame_with_boxes(HEIGHT, WIDTH, rng).window for _ in range(4000)]
    enlarged = [window for window in framed if window != (0, 0, HEIGHT, WIDTH)]
    assert abs(len(enlarged) / len(framed) - 0.5) < 0.03
    np.testing.assert_allclose(statistics(enlarged), statistics(borders), atol=0.06, rtol=0)
    assert iou_crop(np.zeros((0, 4), np.float32), (HEIGHT, WIDTH), rng) == (0, 0, HEIGHT, WIDTH)


def test_masks_of_a_window_beyond_the_image_are_padded():
    dense = np.random.default_rng(0).random((3, 9, 14)) > 0.5
    masks = RunLengthMasks.from_dense(dense, (9, 14))
    for window in ((-3, -2, 12, 20), (2, -5, 9, 8), (-1, 3, 5, 30), (0, 0, 9, 14)):
        top, left, bottom, right = window
        expected = np.pad(dense, ((0, 0), (40, 40), (40, 40)))[:, 40 + top : 40 + bottom, 40 + left : 40 + right]
        assert np.array_equal(np.asarray(InstanceMasks().crop(masks, window, (9, 14))), expected)
