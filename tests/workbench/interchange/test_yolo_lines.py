"""One reading of the lines of a YOLO data set: polygons, or boxes with keypoints, scores or track ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densevit.errors import DataError
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from densevit_workbench.interchange.yolo_lines import YoloLine, form_of, parse_line
from tests.written_files import save_image, write_text

SIDES = (200, 100)
CORNERS = np.array([[-0.48, -0.45], [0.49, -0.48], [0.47, 0.46], [-0.46, 0.44]])  # of a plate, relative to its box
FACE = np.array([[-0.2, -0.15], [0.2, -0.16], [0, 0.05], [-0.15, 0.25], [0.15, 0.24]])
Values = Callable[[np.ndarray, np.random.Generator], list[float]]


def boxes(count: int, seed: int) -> np.ndarray:
    """Boxes inside the image, (N, 4): centre and sides relative to it."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(0.03), np.log(0.4), (count, 2)))
    return np.concatenate([rng.uniform(sides / 2, 1 - sides / 2), sides], axis=1)


def keypoints(points: np.ndarray, *visibility: float) -> Values:
    """A box, and points at these places of it, each with a visibility if there is one."""

    def values(box: np.ndarray, rng: np.random.Generator) -> list[float]:
        placed = box[:2] + (points + rng.uniform(-0.02, 0.02, points.shape)) * box[2:]
        return [*box, *np.c_[placed, np.tile(visibility, (len(points), 1))].ravel()]

    return values


def polygon(corners: int) -> Values:
    """A polygon that touches the four sides of its box: an ellipse's points, from any of them on."""

    def values(box: np.ndarray, rng: np.random.Generator) -> list[float]:
        angles = np.roll(2 * np.pi * np.arange(corners) / corners, rng.integers(corners))
        return [*(box[:2] + 0.5 * box[2:] * np.stack([np.cos(angles), np.sin(angles)], 1)).clip(0, 1).ravel()]

    return values


def rotated_box(box: np.ndarray, rng: np.random.Generator) -> list[float]:
    """The corners of an oriented box with these bounds, from any corner on."""
    turn = rng.uniform(0.1, 0.4)
    corners = np.array([[-0.5, turn - 0.5], [turn - 0.5, -0.5], [0.5, 0.5 - turn], [0.5 - turn, 0.5]])
    return [*(box[:2] + np.roll(corners, rng.integers(4), axis=0) * box[2:]).ravel()]


def with_end(values: Values, *end: float) -> Values:
    return lambda box, rng: [*values(box, rng), *end]


def only_box(box: np.ndarray, rng: np.random.Generator) -> list[float]:
    return [*box]


FORMS: dict[str, tuple[Values, int]] = {  # with the number of keypoints
    "box": (only_box, 0),
    "box, score": (with_end(only_box, 0.9), 0),
    "box, track id": (with_end(only_box, 7), 0),
    "box, score, track id": (with_end(only_box, 0.9, 7), 0),
    "plate": (keypoints(CORNERS), 4),
    "plate with visibility": (keypoints(CORNERS, 2), 4),
    "plate, score": (with_end(keypoints(CORNERS), 0.7), 4),
    "face": (keypoints(FACE), 5),
    "face, not labelled": (lambda box, rng: [*box, *[-1] * 10], 5),
    "one point": (keypoints(np.zeros((1, 2))), 1),
    "one point with visibility": (keypoints(np.zeros((1, 2)), 1), 1),
    "four corners": (polygon(4), 0),
    "oriented box": (rotated_box, 0),
    "twelve corners": (polygon(12), 0),
    "twelve corners, score": (with_end(polygon(12), 0.8), 0),
}


def lines_of(form: Values, count: int, seed: int = 0) -> tuple[np.ndarray, list[YoloLine]]:
    expected, rng = boxes(count, seed), np.random.default_rng(seed)
    texts = [" ".join(f"{value:.6f}" for value in (0, *form(box, rng))) for box in expected]
    return expected, [YoloLine.of(text, f"{n}.txt, line 1") for n, text in enumerate(texts)]


@pytest.mark.parametrize("name", FORMS)
def test_the_lines_of_a_set_are_read_in_one_form(name: str):
    """The boxes of each form are those it was made from."""
    form_values, count = FORMS[name]
    expected, lines = lines_of(form_values, 60)
    form = form_of(lines, None, "set")
    assert form.keypoints == count
    for box, line in zip(expected, lines, strict=True):
        x, y, w, h = parse_line(line, ("a",), SIDES, form).bbox
        left = (box[:2] - box[2:] / 2) * SIDES
        assert np.allclose([x, y, w, h], [*left, *(box[2:] * SIDES)], atol=0.01), line


@pytest.mark.parametrize("name", FORMS)
def test_few_lines_are_never_read_in_a_wrong_form(name: str):
    """One line may be read in two ways, which is an error; it is never read in the wrong one."""
    form_values, count = FORMS[name]
    for seed in range(40):
        try:
            form = form_of(lines_of(form_values, 1, seed)[1], None, "set")
        except DataError:
            continue
        assert form.keypoints == count, seed


def test_an_ambiguous_set_shows_both_readings_and_the_key_that_chooses():
    line = YoloLine.of("0 0.5 0.5 0.45 0.5 0.48 0.52", "a.txt, line 1")
    text = (
        r"^set: the 1 lines of 6 numbers .*a\.txt, line 1, may be a polygon \(kpt_shape: \[\]\), around \(0\.45, 0\.5, "
        r"0\.05, 0\.02\) or a box with 1 keypoints \(kpt_shape: \[1, 2\]\), around \(0\.275, 0\.25, 0\.45, 0\.5\)"
    )
    with pytest.raises(DataError, match=text):
        form_of([line], None, "set")
    assert form_of([line], (1, 2), "set").keypoints == 1 and form_of([line], (), "set").keypoints == 0


def data_set(root: Path, lines: list[str], kpt_shape: str = "") -> Path:
    for n, line in enumerate(lines):
        split = "val" if n == 0 else "train"
        pixels = np.random.default_rng(n).integers(0, 255, (SIDES[1], SIDES[0], 3), np.uint8)
        save_image(root / "images" / split / f"{n}.png", pixels)
        write_text(root / "labels" / split / f"{n}.txt", line)
    return write_text(root / "data.yaml", f"train: images/train\nval: images/val\nnames: [a]\n{kpt_shape}").parent


def test_keypoints_are_written_in_cocos_format(tmp_path: Path):
    """Not labelled at 0 or below; without visibility in the file, the others are visible."""
    root = data_set(tmp_path / "in", ["0 0.5 0.5 0.4 0.6 0.4 0.4 -1 -1 0.6 0.7"] * 3, "kpt_shape: [3, 2]\n")
    converted = convert_dataset("yolo", root, tmp_path / "out")
    assert converted.notes == ("boxes have 3 keypoints, kept in the json; no built-in head uses them",)
    first: dict[str, Any] = json.loads((tmp_path / "out" / "annotations/instances_val.json").read_text())[
        "annotations"
    ][0]
    assert first["bbox"] == [60, 20, 80, 60] and "segmentation" not in first
    assert first["keypoints"] == [80, 40, 2, 0, 0, 0, 120, 70, 2] and first["num_keypoints"] == 2


@pytest.mark.parametrize(
    ("last", "kpt_shape", "message"),
    [
        (
            "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5 0.3",
            "",
            r"0\.txt, line 1: 10 numbers; expected .*3 points or more\. Is the",
        ),
        (
            "0 0.5 0.5 0.4 0.6 0.4",
            "kpt_shape: [3, 2]\n",
            r"0\.txt, line 1: 6 numbers; expected .*3 keypoints\. Is the line",
        ),
        (
            "0 0.5 0.5 0.4 0.6",
            "kpt_shape: [3]\n",
            r"data\.yaml: kpt_shape is \['3'\]; expected \[number of keypoints, 2 or",
        ),
    ],
    ids=["polygon", "keypoints", "shape"],
)
def test_a_cut_line_is_an_error(last: str, kpt_shape: str, message: str, tmp_path: Path):
    """A polygon loses no point: an odd number of coordinates is a score only if all lines have one."""
    root = data_set(tmp_path / "in", [last, *["0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"] * 3], kpt_shape)
    with pytest.raises(DataError, match=message):
        convert_dataset("yolo", root, tmp_path / "out")
