"""densevit/drawing/draw.py: predictions and ground truth on images: places, colours, outlines and names."""

import numpy as np
import pytest
import torch

from densevit.drawing.canvas import OPACITY, OUTLINE
from densevit.drawing.draw import ERROR_COLOR, draw
from densevit.interfaces import Class
from densevit.targets import Keypoints

RED, BLUE = (250, 10, 20), (20, 30, 240)
CLASSES = (Class("cat", 1, RED), Class("dog", 2, BLUE))
GREY = np.full((600, 600, 3), 128, np.uint8)


def found(*boxes: tuple[float, float, float, float], labels: list[int], scores: list[float]) -> dict[str, torch.Tensor]:
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def pixels_of(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((image == color).all(axis=2).sum())


def filled(values: torch.Tensor, *regions: tuple[slice, slice, int]) -> torch.Tensor:
    for rows, columns, value in regions:
        values[rows, columns] = value
    return values


def semantic(*regions: tuple[slice, slice, int], fill: int = 255, size: tuple[int, int] = (600, 600)) -> torch.Tensor:
    return filled(torch.full(size, fill, dtype=torch.uint8), *regions)


LEFT, RIGHT, ALL = slice(0, 300), slice(300, 600), slice(None)


def blended(color: tuple[int, int, int], opacity: float = OPACITY) -> list[float]:
    return [(1 - opacity) * 128 + opacity * c for c in color]


def test_a_box_of_the_threshold_or_more_is_drawn_at_its_place_in_its_class_color():
    image = np.random.default_rng(0).integers(0, 256, (570, 610, 3), dtype=np.uint8)
    image[195:405, 95:305] = 128
    predictions = found((100, 200, 300, 400), (10, 20, 90, 90), labels=[1, 0], scores=[0.3, 0.29])
    assert (draw(image, predictions, CLASSES) == image).all()
    drawn = draw(image, predictions, CLASSES, threshold=0.3)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    for y, x in ((200, 290), (400, 200), (300, 100), (300, 300)):  # on each side, outside the label
        assert tuple(drawn[y, x]) == BLUE
    assert tuple(drawn[300, 200]) == (128, 128, 128) and pixels_of(drawn, RED) <= pixels_of(image, RED)
    as_tensor = torch.from_numpy(image).permute(2, 0, 1)
    assert (draw(as_tensor, predictions, CLASSES, threshold=0.3) == drawn).all()


def test_ground_truth_is_left_and_prediction_right():
    truth = found((100, 200, 300, 400), labels=[1], scores=[1]) | {"iscrowd": torch.tensor([True])}
    sheet = draw(GREY, found((100, 200, 300, 400), labels=[0], scores=[0.9]), CLASSES, truth=truth)
    height, width = sheet.shape[:2]
    assert height > 600 and width > 1200
    left, right = sheet[:, :600], sheet[:, -600:]
    assert pixels_of(left, BLUE) > 500 and pixels_of(left, RED) == 0
    assert pixels_of(right, RED) > 500 and pixels_of(right, BLUE) == 0
    assert (left[-600:][300, 200] == 128).all()


def test_keypoints_and_skeleton_are_drawn():
    points = torch.tensor([[[100.0, 100, 2], [400, 100, 1], [0, 0, 0]]])
    types = {"keypoints": Keypoints(("a", "b", "c"), skeleton=[(0, 1), (1, 2)])}
    sheet = draw(GREY, {"keypoints": points, "labels": torch.tensor([0])}, CLASSES, types=types)
    for x, y in ((100, 100), (400, 100), (250, 100)):
        assert tuple(sheet[y, x]) == RED
    assert tuple(sheet[50, 200]) == tuple(GREY[0, 0])


def test_label_map_is_overlaid_in_class_colors_except_255_with_a_legend_of_visible_classes():
    drawn = draw(GREY, {"semantic": semantic((LEFT, LEFT, 0), (LEFT, RIGHT, 1))}, CLASSES)
    for columns, color in ((LEFT, RED), (RIGHT, BLUE)):
        np.testing.assert_allclose(drawn[LEFT, columns], np.broadcast_to(blended(color), (300, 300, 3)), atol=1)
    assert (drawn[RIGHT.start : 600] == 128).all()
    one = draw(GREY, {"semantic": semantic((LEFT, ALL, 1))}, CLASSES)[600:]
    assert pixels_of(drawn[600:], RED) > 300 and pixels_of(drawn[600:], BLUE) > 300
    assert pixels_of(one, RED) == 0 and pixels_of(one, BLUE) == pixels_of(drawn[600:], BLUE)


PALE = [0.6 * 128 + 0.4 * 255] * 3
WRONG = [0.4 * PALE[0] + 0.6 * c for c in ERROR_COLOR]


def panels(sheet: np.ndarray) -> list[np.ndarray]:
    """Ground truth, prediction and errors of a sheet."""
    gap = (sheet.shape[1] - 3 * 600) // 2
    band = int((sheet[:, 5] != 255).all(axis=1).argmax())
    return [sheet[band : band + 600, n * (600 + gap) : n * (600 + gap) + 600] for n in range(3)]


def test_ground_truth_prediction_and_errors_are_drawn():
    found = semantic((ALL, ALL, 0))
    truth = semantic((LEFT, LEFT, 0), (LEFT, RIGHT, 1), (RIGHT, LEFT, 0))  # the last quarter is not labelled
    sheet = draw(GREY, {"semantic": found}, CLASSES, truth={"semantic": truth})
    places = {"right": (100, 100), "wrong": (100, 500), "unlabelled": (500, 500)}
    expected = [
        {"right": blended(RED), "wrong": blended(BLUE), "unlabelled": [128] * 3},
        {"right": blended(RED), "wrong": blended(RED), "unlabelled": blended(RED)},
        {"right": PALE, "wrong": WRONG, "unlabelled": [0] * 3},
    ]
    for panel, colors in zip(panels(sheet), expected, strict=True):
        for name, place in places.items():
            assert panel[place].tolist() == pytest.approx(colors[name], abs=1), name


UPPER, LOWER = LEFT, RIGHT


def segments(*regions: tuple[slice, slice, int]) -> torch.Tensor:
    return filled(torch.full((600, 600), -1, dtype=torch.int32), *regions)


def test_panoptic_segments_have_class_colours_outlines_and_names():
    drawn = draw(GREY, {"panoptic": segments((UPPER, LEFT, 0), (UPPER, RIGHT, 1), (LOWER, LEFT, 1000))}, CLASSES)
    assert drawn[20, 20].tolist() == pytest.approx(blended(RED), abs=1)
    second = tuple(round(0.88 * value) for value in RED)  # another instance of the class
    assert drawn[20, 580].tolist() == pytest.approx(blended(second), abs=1)
    assert drawn[580, 20].tolist() == pytest.approx(blended(BLUE), abs=1)
    assert (drawn[310:, 310:] == 128).all()  # void
    for y, x in ((100, 300), (300, 100), (300, 500), (500, 300)):  # between segments, and beside void
        assert tuple(drawn[y, x]) == OUTLINE
    for rows, columns, color in ((UPPER, LEFT, RED), (UPPER, RIGHT, RED), (LOWER, LEFT, BLUE)):
        y, x = (drawn[rows, columns] == color).all(axis=2).nonzero()
        assert len(y) > 100  # the label of a name, in the middle
        assert abs((y.min() + y.max()) / 2 - 150) < 10 and abs((x.min() + x.max()) / 2 - 150) < 10


def test_instance_masks_have_outlines_and_names_if_there_are_no_boxes():
    masks = torch.zeros(2, 600, 600, dtype=torch.bool)
    masks[0, 100:300, 100:300], masks[1, 200:500, 200:500] = True, True
    objects = {"masks": masks, "labels": torch.tensor([0, 1]), "scores": torch.tensor([0.9, 0.8])}
    drawn = draw(GREY, objects, CLASSES)
    for y, x in ((100, 200), (200, 100), (250, 300), (300, 250), (500, 400)):  # the first mask is on top
        assert tuple(drawn[y, x]) == OUTLINE
    assert drawn[250, 250].tolist() == pytest.approx(blended(RED), abs=1)
    assert drawn[480, 480].tolist() == pytest.approx(blended(BLUE), abs=1)
    assert pixels_of(drawn, RED) > 100 and pixels_of(drawn, BLUE) > 100
