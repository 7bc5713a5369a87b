import numpy as np
import pytest
import torch

from densevit.interfaces import Class
from densevit.visualization import draw as module
from densevit.visualization.draw import draw, text_color

RED, BLUE = (250, 10, 20), (20, 30, 240)
CLASSES = (Class("cat", 1, RED), Class("dog", 2, BLUE))
GREY = np.full((600, 600, 3), 128, np.uint8)


def found(*boxes: tuple[float, float, float, float], labels: list[int], scores: list[float]) -> dict[str, torch.Tensor]:
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def pixels_of(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=2).sum())


def test_a_box_stands_where_it_was_found_in_its_class_color():
    drawn = draw(GREY, found((100, 200, 300, 400), labels=[1], scores=[0.9]), CLASSES)
    assert drawn.shape == GREY.shape and drawn.dtype == np.uint8
    for y, x in ((200, 290), (400, 200), (300, 100), (300, 300)):  # on each side, off the label
        assert tuple(drawn[y, x]) == BLUE
    assert tuple(drawn[300, 200]) == (128, 128, 128)
    assert pixels_of(drawn, RED) == 0


def test_what_lies_below_the_threshold_is_not_drawn():
    predictions = found((100, 200, 300, 400), (10, 20, 90, 90), labels=[1, 0], scores=[0.3, 0.29])
    assert (draw(GREY, predictions, CLASSES) == GREY).all()
    drawn = draw(GREY, predictions, CLASSES, threshold=0.3)
    assert pixels_of(drawn, BLUE) > 0 and pixels_of(drawn, RED) == 0


def test_a_tensor_and_an_array_give_the_same_picture():
    image = np.random.default_rng(0).integers(0, 256, (570, 610, 3), dtype=np.uint8)
    predictions = found((100, 200, 300, 400), labels=[1], scores=[0.9])
    as_tensor = draw(torch.from_numpy(image).permute(2, 0, 1), predictions, CLASSES)
    assert (as_tensor == draw(image, predictions, CLASSES)).all()


def test_a_small_picture_is_enlarged_by_a_whole_number():
    drawn = draw(GREY[:100, :140], found((20, 30, 120, 90), labels=[0], scores=[1.0]), CLASSES)
    assert drawn.shape == (500, 700, 3)
    assert tuple(drawn[300, 100]) == RED and tuple(drawn[300, 600]) == RED


@pytest.mark.parametrize("size", [(1, 1), (10, 3000), (3000, 10), (50, 50), (2400, 3200)])
def test_any_size_is_drawn(size: tuple[int, int]):
    height, width = size
    image = np.zeros((*size, 3), np.uint8)
    predictions = found(
        (0, 0, width, height), (width, height, 0, 0), (-9, -9, 9e4, 9e4), labels=[0, 1, 0], scores=[1, 1, 1]
    )
    zoom = draw(image, predictions, CLASSES).shape[0] / height
    assert zoom == int(zoom) >= 1


def label_area(picture: np.ndarray) -> int:
    """Pixels of the label at a box of no size: its colour or its text's."""
    return int((picture != 128).any(axis=2).sum())


@pytest.mark.parametrize("corner", [(0, 0), (599, 0), (0, 599), (599, 599)])
def test_a_label_stays_whole_at_the_picture_edge(corner: tuple[int, int]):
    middle, edge = (draw(GREY, found((x, y, x, y), labels=[0], scores=[0.5]), CLASSES) for x, y in ((300, 300), corner))
    assert label_area(middle) > 500
    assert label_area(edge) == pytest.approx(label_area(middle), rel=0.05)


def test_labels_of_equal_boxes_do_not_hide_one_another():
    alone = [draw(GREY, found((200, 200, 300, 300), labels=[label], scores=[0.9]), CLASSES) for label in (0, 1)]
    both = draw(GREY, found((200, 200, 300, 300), (200, 200, 300, 300), labels=[0, 1], scores=[0.9, 0.8]), CLASSES)
    above = slice(0, 198)  # where the label of a single box stands
    assert pixels_of(both[above], RED) == pixels_of(alone[0][above], RED) > 500
    assert pixels_of(both[above], BLUE) == 0
    assert pixels_of(both, BLUE) >= pixels_of(alone[1][above], BLUE)  # its label is whole too, in another place


def test_a_name_wider_than_the_picture_is_shortened_and_keeps_its_score():
    long = (Class("a name that goes on and on " * 9, 1, RED),)
    one_line = label_area(draw(GREY, found((300, 300, 300, 300), labels=[0], scores=[0.5]), CLASSES))
    drawn = draw(GREY, found((300, 300, 300, 300), labels=[0], scores=[0.5]), long)
    rows = np.flatnonzero((drawn != 128).any(axis=(1, 2)))
    assert one_line < label_area(drawn) <= 600 * len(rows)
    assert (drawn[:, -1] == 128).all() or (drawn[:, 0] == 128).all()


@pytest.mark.parametrize(
    ("background", "text"),
    [
        ((255, 255, 0), 0),
        ((255, 255, 255), 0),
        ((0, 200, 0), 0),
        ((0, 0, 128), 255),
        ((120, 0, 0), 255),
        ((0, 0, 0), 255),
    ],
)
def test_text_stands_out_from_its_background(background: tuple[int, int, int], text: int):
    assert text_color(background) == (text, text, text)


def test_the_truth_stands_on_the_left_and_the_prediction_on_the_right():
    truth = {
        "boxes": torch.tensor([[100.0, 200, 300, 400]]),
        "labels": torch.tensor([1]),
        "iscrowd": torch.tensor([True]),
    }
    sheet = draw(GREY, found((100, 200, 300, 400), labels=[0], scores=[0.9]), CLASSES, truth=truth)
    height, width = sheet.shape[:2]
    assert height > 600 and width > 1200
    left, right = sheet[:, :600], sheet[:, -600:]
    assert pixels_of(left, BLUE) > 500 and pixels_of(left, RED) == 0
    assert pixels_of(right, RED) > 500 and pixels_of(right, BLUE) == 0
    assert (left[-600:][300, 200] == 128).all()


def test_a_new_kind_of_prediction_needs_only_a_painter(monkeypatch: pytest.MonkeyPatch):
    predictions = {"semantic": torch.zeros(600, 600)}
    assert (draw(GREY, predictions, CLASSES) == GREY).all()
    monkeypatch.setitem(
        module.PAINTERS, "semantic", lambda canvas, result, classes, zoom: canvas.paste(RED, (0, 0, 600, 600))
    )
    assert (draw(GREY, predictions, CLASSES) == RED).all()
