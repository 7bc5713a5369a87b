"""CocoDetection against pycocotools on COCO JSON files, bit-identical."""

import contextlib
import io
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densevit.config import from_mapping
from densevit.data.build import build_data
from densevit.data.datasets.coco import Coco
from densevit.data.datasets.coco_annotations import read_annotations
from densevit.errors import DensevitError
from densevit.evaluation import backends
from densevit.evaluation.coco import CocoDetection
from densevit.interfaces import Class
from densevit.targets.objects import Boxes, xywh

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
FILE_IDS = (90, 3, 17, 1, 44, 62)  # gaps, and not in order
CLASSES = tuple(Class(f"class {n}", file_id, (n, n, n)) for n, file_id in enumerate(FILE_IDS))
BACKENDS = ("pycocotools", "faster-coco-eval")


def pycocotools_stats(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[list[float], np.ndarray]:
    """The twelve metrics and the precisions, (T, R, K, A, M), of a COCO JSON and a list of COCO results."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist(), evaluation.eval["precision"]


def messy(seed: int, images: int = 30) -> list[tuple[dict[str, Any], dict[str, Any]]]:
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


def crowded(seed: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """One image with 300 detections of one class and one of another, more than are evaluated, among others."""
    rng = np.random.default_rng(seed)
    boxes = torch.tensor(rng.uniform(0, 200, (40, 4)), dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    truth = {"image_id": 20_000, "boxes": boxes, "labels": torch.zeros(40, dtype=torch.long)}
    truth |= {
        "area": torch.full((40,), 1024.0),
        "iscrowd": torch.zeros(40, dtype=torch.bool),
    }  # both small and medium
    found = torch.tensor(rng.integers(0, 40, 301))
    scores = torch.tensor(rng.random(301), dtype=torch.float32)
    prediction = {"boxes": boxes[found] + 3 * torch.tensor(rng.random((301, 4)), dtype=torch.float32), "scores": scores}
    prediction["labels"] = torch.tensor([0] * 300 + [1])
    return [*messy(seed), (prediction, truth)]


def as_json(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same images as a COCO JSON and COCO results, box by box."""
    annotations, results = [], []
    for prediction, truth in pairs:
        for box, label, area, crowd in zip(
            *(truth[key].tolist() for key in ("boxes", "labels", "area", "iscrowd")), strict=True
        ):
            x1, y1, x2, y2 = box
            annotation = {"id": len(annotations) + 1, "image_id": truth["image_id"], "category_id": FILE_IDS[label]}
            annotations.append(annotation | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": int(crowd)})
        for box, label, score in zip(*(prediction[key].tolist() for key in ("boxes", "labels", "scores")), strict=True):
            x1, y1, x2, y2 = box
            result = {"image_id": truth["image_id"], "category_id": FILE_IDS[label], "bbox": [x1, y1, x2 - x1, y2 - y1]}
            results.append(result | {"score": score})
    categories = [{"id": c.file_id, "name": c.name} for c in CLASSES]
    images = [{"id": truth["image_id"]} for _, truth in pairs]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def evaluated(pairs: list[tuple[dict[str, Any], dict[str, Any]]], batch_size: int = 7) -> CocoDetection:
    evaluator = CocoDetection(CLASSES)
    for start in range(0, len(pairs), batch_size):
        evaluator.update(*zip(*pairs[start : start + batch_size], strict=True))
    return evaluator


def same(metrics: dict[str, float], expected: dict[str, float]) -> bool:
    """Bit-identical, including nan, in the same order."""
    return list(metrics) == list(expected) and np.array_equal([*metrics.values()], [*expected.values()], equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pairs", [*(messy(seed) for seed in range(8)), crowded(1), crowded(2)], ids=lambda _: "")
def test_metrics_and_class_metrics_match_pycocotools(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]], backend: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("densevit.evaluation.coco.fastest_backend", lambda: backend)
    stats, precision = pycocotools_stats(*as_json(pairs))
    expected = dict(zip(NAMES, stats, strict=True))
    for c in CLASSES:
        column = precision[:, :, sorted(FILE_IDS).index(c.file_id), 0, 2]
        expected[f"AP/{c.name}"] = np.mean(column[column > -1]) if (column > -1).any() else -1
    expected = {name: math.nan if value == -1 else value for name, value in expected.items()}

    metrics = evaluated(pairs).compute()
    assert same(metrics, expected)
    assert 0.1 < metrics["AP"] < 0.9
    assert math.isnan(metrics["AP/class 5"])


def test_fast_backend_is_used_if_installed(monkeypatch: pytest.MonkeyPatch):
    assert backends.fastest_backend() == "faster-coco-eval"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert backends.fastest_backend() == "pycocotools"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("right", ["TFT", "TTF", "F", "T", "FTT", "TT" + 60 * "FT", 150 * "T", "TF" + 150 * "T", ""])
def test_backends_round_the_first_precision_equally(right: str, backend: str):
    """150 objects in as many images; the letters give correct and wrong detections by descending score."""
    count = 150
    boxes = np.tile([10.0, 10.0, 20.0, 20.0], (len(right), 1))
    boxes[[letter == "F" for letter in right], 0] = 200
    truth_boxes, crowds = np.tile([10.0, 10.0, 20.0, 20.0], (count, 1)), np.zeros(count, bool)
    data = backends.OneClass(
        images=np.arange(len(right)) % count,
        sizes=boxes[:, 2] * boxes[:, 3],
        scores=np.linspace(0.9, 0.1, len(right)),
        truth_images=np.arange(count),
        areas=np.linspace(500, 20_000, count),
        crowds=crowds,
        overlaps=lambda found, known: mask.iou(boxes[found], truth_boxes[known], crowds[known]),
    )
    precision, recall = backends.curves(backend, data, (1, 10, 100))
    expected, expected_recall = backends.curves("pycocotools", data, (1, 10, 100))
    assert np.array_equal(precision, expected) and np.array_equal(recall, expected_recall)
    assert precision.shape == (10, 101, 4, 3)


def test_metrics_by_hand():
    """Two objects; the detections are correct, wrong, correct: precision 1 up to recall 0.5, then 2/3."""
    truth = {
        "image_id": 7,
        "boxes": torch.tensor([[0.0, 0, 50, 50], [100, 100, 150, 150]]),
        "labels": torch.zeros(2, dtype=int),
    }
    found = {"boxes": torch.tensor([[0.0, 0, 50, 50], [300, 0, 350, 50], [100, 100, 150, 150]])}
    found |= {"scores": torch.tensor([0.9, 0.8, 0.7]), "labels": torch.zeros(3, dtype=int)}
    evaluator = CocoDetection(CLASSES[:2])
    evaluator.update([found], [truth])
    metrics = evaluator.compute()
    assert metrics["AP"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert (metrics["AR1"], metrics["AR10"]) == (0.5, 1.0)
    assert (
        metrics["APm"] == metrics["AP"] == metrics["AP/class 0"]
    )  # the areas of the boxes, 2500, as the ground truth has none
    assert math.isnan(metrics["APs"]) and math.isnan(metrics["AP/class 1"])


def test_metrics_do_not_depend_on_batch_size_or_order():
    pairs = messy(3)
    expected = evaluated(pairs, batch_size=1).compute()
    assert same(evaluated(pairs, batch_size=7).compute(), expected)
    assert same(evaluated(pairs[::-1], batch_size=30).compute(), expected)


def test_metrics_do_not_depend_on_the_split_over_processes():
    pairs = messy(5)
    whole = evaluated(pairs)
    shards = [pairs[:1], pairs[1:20], pairs[18:], pairs[:2], []]  # uneven, repeated and empty ones
    states = [pickle.loads(pickle.dumps(evaluated(shard).state())) for shard in shards]
    merged = evaluated(pairs[:1])
    merged.merge(states)
    assert same(merged.compute(), whole.compute())
    assert merged.results() == whole.results()


def test_repeated_image_counts_once_and_reset_clears():
    pairs = messy(2)
    evaluator = evaluated([*pairs, *pairs[:5], pairs[-1], pairs[-1]])
    assert same(evaluator.compute(), evaluated(pairs).compute())
    evaluator.reset()
    assert all(math.isnan(value) for value in evaluator.compute().values()) and evaluator.results() == []
    evaluator.update(*zip(*pairs, strict=True))
    assert same(evaluator.compute(), evaluated(pairs).compute())


def test_results_have_file_ids_and_match_in_pycocotools():
    pairs = messy(4)
    truth, _ = as_json(pairs)
    evaluator = evaluated(pairs)
    results = evaluator.results()
    assert json.loads(json.dumps(results)) == results
    assert {entry["category_id"] for entry in results} <= set(FILE_IDS)
    assert {entry["image_id"] for entry in results} <= {truth["image_id"] for _, truth in pairs}
    stats, _ = pycocotools_stats(truth, results)
    assert [evaluator.compute()[name] for name in NAMES] == stats


def test_image_ids_may_be_strings():
    pairs = messy(6)
    named = [(prediction, {**truth, "image_id": f"{truth['image_id']:05d}.jpg"}) for prediction, truth in pairs]
    assert same(evaluated(named).compute(), evaluated(pairs).compute())  # with leading zeros, strings sort like numbers
    expected = [{**entry, "image_id": f"{entry['image_id']:05d}.jpg"} for entry in evaluated(pairs).results()]
    assert evaluated(named).results() == expected


def test_detections_without_ground_truth_are_false_positives_unless_unlabelled():
    pairs = messy(0)
    found = {
        "boxes": torch.tensor([[0.0, 0, 100, 100]] * 9),
        "scores": torch.ones(9),
        "labels": torch.zeros(9, dtype=int),
    }
    empty = {"image_id": 99_999, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=int)}
    assert evaluated([*pairs, (found, empty)]).compute()["AP/class 0"] < evaluated(pairs).compute()["AP/class 0"]
    assert same(evaluated([*pairs, (found, {"image_id": 99_999})]).compute(), evaluated(pairs).compute())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("labels", "2 boxes, 1 labels, 2 area, 2 iscrowd"),
        ("area", "2 boxes, 2 labels, 1 area, 2 iscrowd"),
        ("iscrowd", "2 boxes, 2 labels, 2 area, 1 iscrowd"),
        ("boxes", "1 boxes, 2 labels, 2 area, 2 iscrowd"),
    ],
)
def test_ground_truth_of_different_lengths_raises(key: str, message: str):
    """Also where the numbers of two images together agree, so that values would move to the next image's objects."""
    found = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=int)}
    truths = []
    for image_id, count in ((7, 2), (8, 1)):
        truth = {"boxes": torch.tensor([[0.0, 0, 9, 9]] * count), "labels": torch.zeros(count, dtype=int)}
        truths.append(truth | {"image_id": image_id, "area": torch.ones(count), "iscrowd": torch.zeros(count)})
    truths[0][key], truths[1][key] = truths[1][key], truths[0][key]
    with pytest.raises(DensevitError, match=f"^image 7: ground truth with {message}; "):
        CocoDetection(CLASSES).update([found, found], truths)


def test_ground_truth_that_is_not_finite_raises():
    found = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=int)}
    truth = {"image_id": 7, "boxes": torch.tensor([[0.0, 0, math.nan, 9]]), "labels": torch.zeros(1, dtype=int)}
    with pytest.raises(DensevitError, match=r"^image 7: a box of the ground truth is not finite"):
        CocoDetection(CLASSES).update([found], [truth])


def test_false_positives_on_images_without_objects_count():
    """AP by hand: an exact detection of score 0.5 after 0, 1 or 3 of higher scores on empty images: 1, 1/2, 1/4."""
    box, label = torch.tensor([[10.0, 10, 20, 20]]), torch.tensor([0])
    for wrong in (0, 1, 3):
        evaluator = CocoDetection(CLASSES[:1])
        for n in range(4):
            truth = {"image_id": n, "boxes": box if n == 3 else box[:0], "labels": label if n == 3 else label[:0]}
            found = 1 if n == 3 or n < wrong else 0
            score = torch.tensor([0.5 if n == 3 else 0.9])
            prediction = {"boxes": box[:found], "scores": score[:found], "labels": label[:found]}
            evaluator.update([prediction], [truth])
        assert evaluator.compute()["AP"] == pytest.approx(1 / (1 + wrong))


@pytest.mark.parametrize("size", [(0.4, 0.3), (300.0, 3.0), (2.0, 200.0)])
def test_tiny_and_narrow_objects_are_counted(size: tuple[float, float]):
    """Found exactly, and moved by a quarter of its width: IoU 3/4 / 5/4 = 0.6, right at 3 of the 10 thresholds."""
    w, h = size
    truth = {"image_id": 1, "boxes": torch.tensor([[8.0, 8.0, 8 + w, 8 + h]]), "labels": torch.tensor([0])}
    for shift, ap in ((0.0, 1.0), (w / 4, 0.3)):
        evaluator = CocoDetection(CLASSES[:1])
        shifted = truth["boxes"] + torch.tensor([shift * 0.999, 0, shift * 0.999, 0])
        evaluator.update([{"boxes": shifted, "scores": torch.ones(1), "labels": truth["labels"]}], [truth])
        assert evaluator.compute()["AP"] == pytest.approx(ap)


def test_half_precision_predictions_are_not_rounded():
    pairs = messy(2)
    half = [({**p, "boxes": p["boxes"].bfloat16(), "scores": p["scores"].bfloat16()}, t) for p, t in pairs]
    as_float = [
        ({**p, "boxes": p["boxes"].bfloat16().float(), "scores": p["scores"].bfloat16().float()}, t) for p, t in pairs
    ]
    assert same(evaluated(half).compute(), evaluated(as_float).compute())


def test_invalid_input_raises():
    boxes, one = torch.zeros(1, 4), torch.zeros(1, dtype=int)
    truth = {"image_id": 12, "boxes": boxes, "labels": one}
    evaluator = CocoDetection(CLASSES)
    with pytest.raises(DensevitError, match=r"image 12: predicted label 6, but there are 6 classes"):
        evaluator.update([{"boxes": boxes, "scores": torch.ones(1), "labels": one + 6}], [truth])
    with pytest.raises(DensevitError, match=r"image 12: a predicted box or score is not a finite number"):
        evaluator.update([{"boxes": boxes, "scores": torch.tensor([math.nan]), "labels": one}], [truth])
    with pytest.raises(DensevitError, match=r"image 12: predictions with 1 boxes, 2 scores, 1 labels"):
        evaluator.update([{"boxes": boxes, "scores": torch.ones(2), "labels": one}], [truth])
    with pytest.raises(DensevitError, match=r"image 12: label 6, but there are 6 classes"):
        evaluator.update([{"boxes": boxes, "scores": torch.ones(1), "labels": one}], [{**truth, "labels": one + 6}])
    with pytest.raises(DensevitError, match=r"max_detections is 5"):
        CocoDetection(CLASSES, max_detections=5)
    assert evaluator.results() == []  # rejected updates have no effect


def test_max_detections_can_be_raised():
    metrics = {}
    for most in (100, 300):
        evaluator = CocoDetection(CLASSES, max_detections=most)
        evaluator.update(*zip(*crowded(1), strict=True))
        metrics[most] = evaluator.compute()
    assert metrics[300]["AR300"] > metrics[100]["AR100"]
    assert metrics[300]["AR10"] == metrics[100]["AR10"]


@pytest.mark.filterwarnings("ignore:.*without area")
def test_boxes_outside_of_their_image_count_as_in_the_file(tmp_path: Path):
    """Boxes partly or wholly outside, degenerate, crowds and without `area`: pycocotools on the file, in which `area`
    is set to width * height where it is missing.
    """
    rng = np.random.default_rng(3)
    (tmp_path / "val").mkdir()
    images, annotations = [], []
    for image_id in range(12):
        Image.new("RGB", (120, 90)).save(tmp_path / "val" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": 120, "height": 90})
        for _ in range(rng.integers(0, 7)):
            box = [*rng.uniform(-60, 130, 2), *rng.uniform(5, 120, 2)]
            kind = rng.integers(0, 8)
            if kind == 0:
                box[rng.integers(2, 4)] = float(rng.choice([0, -4]))
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(rng.choice([3, 17]))}
            annotation |= {"bbox": [float(x) for x in box], "iscrowd": int(kind == 1)}
            if kind != 2:
                annotation["area"] = float(box[2] * box[3] * rng.uniform(0.5, 1)) if kind else 9.0
            annotations.append(annotation)
    categories = [{"id": 17, "name": "cat"}, {"id": 3, "name": "dog"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(document))
    config = {"backbone": {"name": "resnet"}, "heads": {"detection": {"name": "detr"}}, "trainer": {"max_steps": 1}}
    data = build_data(from_mapping(config | {"data": {"name": "coco", "root": str(tmp_path)}}))
    evaluator = CocoDetection(data.val.classes["detection"])
    for batch in data.val_loader():
        for target in batch["targets"]:
            height, width = target["size"]
            low, high = target["boxes"].split(2, dim=1)
            assert (low >= 0).all() and (high <= torch.tensor([width, height])).all() and (high > low).all()
            truth = target["truth"]
            noise = torch.tensor(rng.normal(0, 4, truth["boxes"].shape))
            boxes = torch.cat([truth["boxes"] + noise, truth["boxes"].clamp(0, 120) + noise]).float()
            scores = torch.tensor(rng.random(len(boxes)), dtype=torch.float32)
            evaluator.update([{"boxes": boxes, "scores": scores, "labels": truth["labels"].repeat(2)}], [truth])
    for annotation in annotations:
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    stats, _ = pycocotools_stats(document, evaluator.results())
    metrics = evaluator.compute()
    expected = {name: math.nan if value == -1 else value for name, value in zip(NAMES, stats, strict=True)}
    assert same({name: metrics[name] for name in NAMES}, expected)
    assert 0.1 < metrics["AP"] < 0.9


DATA = Path(__file__).parents[3] / "shared" / "data" / "coco_tiny" / "annotations" / "instances_val2017.json"


@pytest.mark.skipif(not DATA.is_file(), reason="needs coco_tiny")
def test_real_annotations_match_pycocotools():
    """Each object is detected with a noisy box; metrics equal pycocotools' on the JSON itself."""
    truth = json.loads(DATA.read_text())
    dataset = Coco("val", root=str(DATA.parents[1]))
    rng = np.random.default_rng(0)
    evaluator = CocoDetection(dataset.classes["detection"])
    for index in range(len(dataset)):
        target = dataset[index]["targets"]
        noise = torch.tensor(rng.normal(0, 3, target["boxes"].shape))
        scores = torch.tensor(rng.random(len(noise)), dtype=torch.float32)
        found = {"boxes": (target["boxes"] + noise).float(), "scores": scores, "labels": target["labels"]}
        evaluator.update([found], [target])
    stats, _ = pycocotools_stats(truth, evaluator.results())
    assert [evaluator.compute()[name] for name in NAMES] == stats


def tied(decimals: int, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO json with boxes of so many decimal places, and results whose IoUs are exactly at the thresholds."""
    rng, unit = np.random.default_rng(seed), 10**decimals
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in np.repeat(np.arange(1, 9), 5).tolist():
        x, y = (rng.integers(0, 500 * unit, 2) / unit).tolist()
        width, height = (20 * rng.integers(1, 2 * unit + 1, 2) / unit).tolist()
        values = {"image_id": image_id, "category_id": 3, "bbox": [x, y, width, height]}
        annotations.append({**values, "id": len(annotations) + 1, "area": width * height, "iscrowd": 0})
        found = round(width * float(rng.integers(10, 20) / 20), decimals + 2)
        results.append({**values, "bbox": [x, y, found, height], "score": float(rng.integers(1, 100) / 100)})
    images = [{"id": n, "file_name": f"{n}.png", "width": 900, "height": 700} for n in range(1, 9)]
    return {"images": images, "categories": [{"id": 3, "name": "a"}], "annotations": annotations}, results


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decimals", [1, 2])
def test_exact_ties_of_decimal_coordinates_equal_pycocotools(
    decimals: int, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes and areas from the json, and predictions that are read back from their file, to the last digit."""
    monkeypatch.setattr("densevit.evaluation.coco.fastest_backend", lambda: backend)
    for seed in range(12):
        document, results = tied(decimals, seed)
        (tmp_path / "truth.json").write_text(json.dumps(document))
        known = read_annotations(tmp_path / "truth.json")
        evaluator = CocoDetection(known.classes)
        for n, image_id in enumerate(known.image_ids.tolist()):
            rows = slice(int(known.first[n]), int(known.first[n + 1]))
            of_image = [one for one in json.loads(json.dumps(results)) if one["image_id"] == image_id]
            found = {
                "boxes": torch.from_numpy(Boxes().decode(of_image, known.classes)),
                "scores": torch.tensor([one["score"] for one in of_image], dtype=torch.float64),
                "labels": torch.zeros(len(of_image), dtype=torch.int64),
            }
            truth = {"image_id": image_id, "boxes": torch.from_numpy(known.boxes[rows])}
            truth |= {"labels": torch.from_numpy(known.labels[rows]), "area": torch.from_numpy(known.area[rows])}
            evaluator.update([found], [truth])
        expected, _ = pycocotools_stats(document, results)
        metrics = evaluator.compute()
        assert [-1 if math.isnan(metrics[name]) else metrics[name] for name in NAMES] == expected
        assert sorted(map(json.dumps, evaluator.results())) == sorted(map(json.dumps, results))


def test_widths_are_those_of_the_file() -> None:
    """Of up to nine decimal places; other numbers, and those in float32, are the difference of the corners."""
    rng = np.random.default_rng(0)
    for decimals in range(10):
        boxes = np.round(rng.uniform(0, 2000, (2000, 4)), decimals)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        assert np.array_equal(xywh(corners), boxes)
    corners = rng.uniform(0, 1000, (2000, 4)).astype(np.float32)
    exact = corners.astype(np.float64)
    assert np.array_equal(xywh(corners)[:, 2:], exact[:, 2:] - exact[:, :2])
    assert np.array_equal(xywh(exact)[:, 2:], exact[:, 2:] - exact[:, :2])
