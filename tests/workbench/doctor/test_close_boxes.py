"""plugins/densevit_workbench/doctor/close_boxes.py: pairs by hand, and by the definition for random boxes."""

from itertools import combinations

import numpy as np
import torch

import densevit
from densevit.interfaces import Sample, as_classes
from densevit_workbench.doctor.close_boxes import close_pairs
from tests.counted_dataset import CountedDataset
from tests.workbench.doctor.test_examination import box, write_coco


def test_boxes_of_one_object_by_hand():
    boxes = np.array(
        [
            [10, 10, 30, 30],
            [11, 9, 31, 30],  # a pixel from the first
            [10, 10, 13, 13],
            [11, 11, 14, 14],  # a pixel from the third, but of another object: their IoU is 4 / 14
            [100, 100, 200, 200],
            [101.5, 100, 201, 200],  # 1.5 pixels, and an IoU of 98.5 / 101
            [104, 100, 204, 200],  # 96 / 104 with the first of the three, 97 / 102.5 with the second
            [50, 50, 50, 60],
            [50, 50, 50, 60],  # without area
        ],
        float,
    )
    assert close_pairs(np.zeros(len(boxes), int), boxes).tolist() == [[0, 1], [4, 5]]
    assert close_pairs(np.arange(len(boxes)), boxes).tolist() == [], "boxes of other images"


def test_random_boxes_have_the_pairs_of_the_definition():
    rng = np.random.default_rng(0)
    low, images = rng.integers(0, 6, (300, 2)).astype(float), rng.integers(0, 3, 300)
    boxes = np.column_stack([low, low + rng.integers(0, 20, (300, 2))])

    def are_close(a: np.ndarray, b: np.ndarray) -> bool:
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        shared = max(sides[0], 0) * max(sides[1], 0)
        areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        iou = shared / (sum(areas) - shared) if min(areas) > 0 else 0
        return iou >= 0.95 or (iou >= 0.7 and np.abs(a - b).max() <= 1)

    expected = [[i, j] for i, j in combinations(range(300), 2) if images[i] == images[j] and are_close(*boxes[[i, j]])]
    assert close_pairs(images, boxes).tolist() == expected and len(expected) > 20


class Doubled(CountedDataset):
    """An object that was labelled twice, and one with two classes."""

    provides = ("boxes", "labels")
    length = 2

    def __init__(self, split: str) -> None:
        self.classes = {"detection": as_classes(["cat", "dog"])}

    def __getitem__(self, index: int) -> Sample:
        boxes = torch.tensor([[4.0, 4, 24, 24], [4, 5, 24, 24], [30, 30, 60, 60], [30, 30, 60, 60]])
        image = np.random.default_rng(index).integers(0, 255, (3, 64, 64), np.uint8)
        targets = {"image_id": f"{index}.png", "boxes": boxes, "labels": torch.tensor([0, 0, 0, 1])}
        return {"image": torch.from_numpy(image), "targets": targets}


def test_doctor_lists_objects_that_are_labelled_twice(tmp_path):
    section = tmp_path / "data.yaml"
    section.write_text(f"name: {__name__}:Doubled\n")
    for split in ("train", "val"):
        boxes = [([4, 4, 20, 20], 1), ([4, 5, 20, 20], 1), ([30, 30, 20, 15], 1), ([30, 30, 20, 15], 2)]
        annotations = [box(10 * i + n, i, xywh, label) for i in range(2) for n, (xywh, label) in enumerate(boxes)]
        write_coco(tmp_path / "coco", split, annotations, images=2)
    examples = {
        section: ("image 0.png: boxes 0 (cat) and 1 (cat)", "image 0.png: boxes 2 (cat) and 3 (dog)"),
        tmp_path / "coco": ("annotations 0 (cat) and 1 (cat) of image 0.png", "annotations 2 (cat) and 3 (dog) of"),
    }
    for source, (close, two_classes) in examples.items():
        found = {one.title: one for one in densevit.doctor(source).findings if one.split == "train"}
        one = found["nearly identical boxes (same image and class)"]
        assert (one.severity, one.count, one.of) == ("warning", 2, 8) and close in one.examples[0]
        one = found["boxes with two classes (same image, nearly the same box)"]
        assert (one.severity, one.count, one.of) == ("warning", 2, 8) and two_classes in one.examples[0]
        assert "duplicate boxes (same image, class and box)" not in found
