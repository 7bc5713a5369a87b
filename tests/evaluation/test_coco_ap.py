"""CocoDetection against pycocotools on COCO JSON files, bit-identical."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit.evaluation import coco_ap
from densevit.evaluation.coco_ap import CocoDetection
from tests.data.coco_folder import write_split
from tests.evaluation.coco_reference import CLASSES, Pairs, as_json, reference, same, updated


def messy(seed: int, images: int = 30) -> Pairs:
    """Predictions and ground truth with crowds, mask areas, ties, empty images and an absent class."""
    rng = np.random.default_rng(seed)
    pairs = []
    for image_id in rng.choice(10_000, images, replace=False).tolist():
        count = 0 if rng.random() < 0.2 else int(rng.integers(1, 9))
        corner, size = rng.uniform(0, 400, (count, 2)), np.exp(rng.uniform(1.5, 5.5, (count, 2)))
        whole = rng.random(count) < 0.4  # integers give overlaps exactly at a threshold
        corner[whole], size[whole] = corner[whole].round(), size[whole].round()
        boxes = torch.tensor(np.concatenate([corner, corner + size], axis=1), dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor(rng.integers(0, 5, count))  # class 5 has no ground truth
        truth = {
            "image_id": image_id,
            "boxes": boxes,
            "labels": labels,
            "area": torch.tensor(size.prod(axis=1) * rng.uniform(0.3, 1, count), dtype=torch.float32),
            "iscrowd": torch.tensor(rng.random(count) < 0.2),
        }
        found = torch.tensor(rng.integers(0, max(count, 1), 0 if rng.random() < 0.1 else 3 * count))
        noise = torch.tensor(
            rng.normal(0, 0.1, (len(found), 4)) * rng.integers(0, 2, (len(found), 1)), dtype=torch.float32
        )
        boxes = boxes[found] + noise * (boxes[found][:, 2:] - boxes[found][:, :2]).repeat(1, 2)
        wrong = torch.tensor(rng.random(len(found)) < 0.2)
        scores = torch.tensor(rng.random(len(found)), dtype=torch.float32)
        prediction = {
            "boxes": boxes.round() if rng.random() < 0.4 else boxes,
            "scores": (10 * scores).round() / 10 if seed % 2 else scores,  # ties within and across images
            "labels": torch.where(wrong, torch.tensor(rng.integers(0, 6, len(found))), labels[found]),
        }
        pairs.append((prediction, truth))
    return pairs


def crowded(seed: int) -> Pairs:
    """One image with 300 detections of one class and one of another, more than are evaluated, among others."""
    rng = np.random.default_rng(seed)
    boxes = torch.tensor(rng.uniform(0, 200, (40, 4)), dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    truth = {"image_id": 20_000, "boxes": boxes, "labels": torch.zeros(40, dtype=torch.long)}
    truth |= {"area": torch.full((40,), 1024.0), "iscrowd": torch.zeros(40, dtype=torch.bool)}  # both small and medium
    found = torch.tensor(rng.integers(0, 40, 301))
    scores = torch.tensor(rng.random(301), dtype=torch.float32)
    prediction = {"boxes": boxes[found] + 3 * torch.tensor(rng.random((301, 4)), dtype=torch.float32), "scores": scores}
    prediction["labels"] = torch.tensor([0] * 300 + [1])
    return [*messy(seed), (prediction, truth)]


def evaluated(pairs: Pairs, batch_size: int = 7) -> CocoDetection:
    return updated(CocoDetection(CLASSES), pairs, batch_size)


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_metrics_match_pycocotools(backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(coco_ap, "fastest_backend", lambda: backend)
    for pairs in (messy(1), crowded(2)):
        truth, results = as_json(pairs)
        expected = reference(truth, results)
        evaluator = evaluated(pairs)
        assert same(evaluator.metrics(), expected)
        records = [evaluator.record(*pair) for pair in sorted(pairs, key=lambda pair: pair[1]["image_id"])]
        assert same(evaluator.compute(records), expected)
        assert 0.1 < expected["AP"] < 0.9 and math.isnan(expected["AP/class 5"])
        assert same(reference(truth, json.loads(json.dumps(evaluator.results()))), expected)


# Of the package lvis 0.5.3, LVISEval(..., "bbox"), on `federated` with up to 300 detections.
FEDERATED = {
    "AP": 0.5414971179438169,
    "AP50": 0.6523886502266821,
    "AP75": 0.5486598531134089,
    "APs": 0.571285416101515,
    "APm": 0.5039296085070692,
    "APl": 0.6592409240924092,
    "AR100": 0.7403407224958949,
    "ARs": 0.7557151475975004,
    "ARm": 0.6778205128205128,
    "ARl": 0.7,
}


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_metrics_of_partly_labelled_images_match_the_lvis_package(backend: str, monkeypatch: pytest.MonkeyPatch):
    """`messy` without crowds; classes without objects are negative or not verified, those with objects exhaustive or
    not, and those of class 4 never are."""
    monkeypatch.setattr(coco_ap, "fastest_backend", lambda: backend)
    rng, pairs = np.random.default_rng(1), messy(1)
    for _, truth in pairs:
        truth["iscrowd"] = torch.zeros_like(truth["iscrowd"])
        positive = sorted({*truth["labels"].tolist()})
        negative = [n for n in (0, 1, 2, 3, 5) if n not in positive and rng.random() < 0.4]
        not_exhaustive = [n for n in positive if rng.random() < 0.4 or n == 4]
        truth["labelled"] = [CLASSES[n].name for n in ({*positive} - {*not_exhaustive}) | {*negative}]
    metrics = evaluated(pairs).metrics()
    assert {name: metrics[name] for name in FEDERATED} == FEDERATED and math.isnan(metrics["AP/class 5"])


def test_detections_of_unlabelled_classes_are_no_errors():
    """A correct detection of class 0; two of class 1, which is not labelled: on the object and elsewhere."""
    boxes = torch.tensor([[0.0, 0, 40, 40], [0, 0, 40, 40], [60, 60, 90, 90]])
    prediction = {"boxes": boxes, "scores": torch.tensor([0.8, 0.9, 0.9]), "labels": torch.tensor([0, 1, 1])}
    truth = {"image_id": 1, "boxes": boxes[:1], "labels": torch.tensor([0]), "labelled": ["class 0"]}
    evaluator = evaluated([(prediction, truth)])
    metrics, tables = evaluator.metrics(), evaluator.tables(evaluator.records)
    assert metrics["AP"] > 0.99 and math.isnan(metrics["AP/class 1"])
    assert [row[2] for row in tables["errors"][1:]] == [0] * 8
    assert sum(map(sum, (row[1:] for row in tables["confusion"][1:]))) == 1
    assert evaluator.image_scores(evaluator.records) == [1.0]


def test_detections_without_ground_truth_are_false_positives_unless_unlabelled():
    pairs = messy(0)
    found = {
        "boxes": torch.tensor([[0.0, 0, 100, 100]] * 9),
        "scores": torch.ones(9),
        "labels": torch.zeros(9, dtype=int),
    }
    empty = {"image_id": 99_999, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=int)}
    assert evaluated([*pairs, (found, empty)]).metrics()["AP/class 0"] < evaluated(pairs).metrics()["AP/class 0"]
    assert same(evaluated([*pairs, (found, {"image_id": 99_999})]).metrics(), evaluated(pairs).metrics())


def test_max_detections_can_be_raised():
    few, many = (updated(CocoDetection(CLASSES, max_detections=n), crowded(1)).metrics() for n in (100, 300))
    assert many["AR300"] > few["AR100"] and many["AR10"] == few["AR10"]


@pytest.mark.filterwarnings("ignore:.*without area")
def test_boxes_outside_of_their_image_count_as_in_the_file(tmp_path: Path):
    """Boxes partly or wholly outside, degenerate, crowds and without `area`: pycocotools on the file, in which `area`
    is set to width * height where it is missing.
    """
    rng = np.random.default_rng(3)
    annotations: list[dict[str, Any]] = []
    for kind in rng.integers(0, 8, 40).tolist():
        x, y, width, height = [*rng.uniform(-60, 130, 2), *rng.uniform(5, 120, 2)]
        box = [x, y, 0.0 if kind == 0 else width, height]
        one = {"image_id": int(rng.integers(12)), "category_id": int(rng.choice([3, 17])), "iscrowd": int(kind == 1)}
        one |= {"id": len(annotations) + 1, "bbox": box}  # to pycocotools, an object of the id 0 is never found
        annotations.append(one | ({} if kind == 2 else {"area": width * height * 0.7}))
    categories = [{"id": 17, "name": "cat"}, {"id": 3, "name": "dog"}]
    document = write_split(tmp_path, "val", [np.zeros((90, 120, 3), np.uint8)] * 12, annotations, categories)
    data = DataSplits(DataSection(name="coco", root=str(tmp_path)), 0, 32)
    evaluator = CocoDetection(data.val.classes["detection"])
    for batch in data.val_loader():
        for target in batch["targets"]:
            truth = target["truth"]
            noise = torch.tensor(rng.normal(0, 4, truth["boxes"].shape))
            boxes = torch.cat([truth["boxes"] + noise, truth["boxes"].clamp(0, 120) + noise]).float()
            scores = torch.tensor(rng.random(len(boxes)), dtype=torch.float32)
            evaluator.update([{"boxes": boxes, "scores": scores, "labels": truth["labels"].repeat(2)}], [truth])
    for annotation in document["annotations"]:
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    metrics, expected = evaluator.metrics(), reference(document, evaluator.results())
    assert same({name: metrics[name] for name in expected}, expected) and 0.1 < metrics["AP"] < 0.9
