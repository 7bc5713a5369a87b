"""CocoMasks against pycocotools' `segm` on COCO JSON files, bit-identical."""

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
from pycocotools import mask as codes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from densevit.data.datasets.coco import Coco
from densevit.errors import DensevitError
from densevit.evaluation.coco_masks import CocoMasks
from densevit.interfaces import Class
from densevit.targets import RunLengthMasks
from densevit.training.loop.evaluators import create_evaluator

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
FILE_IDS = (90, 3, 17, 1, 44)  # gaps, and not in order
CLASSES = tuple(Class(f"class {n}", file_id, (n, n, n)) for n, file_id in enumerate(FILE_IDS))

Pairs = list[tuple[dict[str, Any], dict[str, Any]]]


def ellipses(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Masks (N, H, W) bool of ellipses, some cut by the image's edge."""
    y, x = np.mgrid[: size[0], : size[1]]
    center, radius = rng.uniform(0, 1, (count, 2)) * size, np.exp(rng.uniform(1, 5, (count, 2)))
    return np.array(
        [((y - c[0]) / r[0]) ** 2 + ((x - c[1]) / r[1]) ** 2 < 1 for c, r in zip(center, radius, strict=True)]
    ).reshape(count, *size)


def messy(seed: int, images: int = 10) -> Pairs:
    """Predictions and ground truth with crowds, ties, empty masks, images without objects and an absent class."""
    rng = np.random.default_rng(seed)
    pairs = []
    for image_id in rng.choice(10_000, images, replace=False).tolist():
        size = (int(rng.integers(130, 180)), int(rng.integers(130, 240)))
        count = 0 if rng.random() < 0.2 else int(rng.integers(1, 7))
        masks = ellipses(rng, count, size)
        labels = rng.integers(0, 4, count)  # class 4 has no ground truth
        truth = {
            "image_id": image_id,
            "masks": RunLengthMasks.from_dense(masks, size),
            "labels": torch.tensor(labels),
            "area": torch.tensor(masks.sum((1, 2)) * rng.uniform(0.6, 1, count), dtype=torch.float32),
            "iscrowd": torch.tensor(rng.random(count) < 0.2),
        }
        found = rng.integers(0, max(count, 1), 0 if rng.random() < 0.1 else 4 * count)
        shifted = [np.roll(masks[n], rng.integers(-5, 6, 2), (0, 1)) for n in found]
        shifted = [np.zeros_like(mask) if rng.random() < 0.05 else mask for mask in shifted]
        wrong = rng.random(len(found)) < 0.2
        scores = rng.random(len(found))
        prediction = {
            "masks": torch.tensor(np.array(shifted).reshape(-1, *size), dtype=torch.bool),
            "scores": torch.tensor(scores.round(1) if seed % 2 else scores, dtype=torch.float32),  # ties
            "labels": torch.tensor(np.where(wrong, rng.integers(0, 5, len(found)), labels[found] if count else 0)),
        }
        pairs.append((prediction, truth))
    return pairs


def rle(mask: Any) -> dict[str, Any]:
    encoded = codes.encode(np.asfortranarray(np.asarray(mask, np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def as_json(pairs: Pairs) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same images as a COCO JSON and COCO results, mask by mask."""
    annotations, results = [], []
    for prediction, truth in pairs:
        rows = zip(truth["masks"], *(truth[key].tolist() for key in ("labels", "area", "iscrowd")), strict=True)
        for mask, label, area, crowd in rows:
            entry = {"id": len(annotations) + 1, "image_id": truth["image_id"], "category_id": FILE_IDS[label]}
            annotations.append(entry | {"segmentation": rle(mask), "area": area, "iscrowd": int(crowd)})
        rows = zip(prediction["masks"], *(prediction[key].tolist() for key in ("labels", "scores")), strict=True)
        for mask, label, score in rows:
            entry = {"image_id": truth["image_id"], "category_id": FILE_IDS[label], "score": score}
            results.append(entry | {"segmentation": rle(mask)})
    images = [
        {"id": truth["image_id"], "height": found["masks"].shape[1], "width": found["masks"].shape[2]}
        for found, truth in pairs
    ]
    categories = [{"id": c.file_id, "name": c.name} for c in CLASSES]
    return {"images": images, "annotations": annotations, "categories": categories}, results


class BoundaryEval(COCOeval):
    """pycocotools with the boundary IoU of Cheng et al. 2021, written out."""

    def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802  # pycocotools' name
        ious = super().computeIoU(image, category)
        found = sorted(self._dts[image, category], key=lambda one: -one["score"])[: self.params.maxDets[-1]]
        for d, detection in enumerate(found):
            for g, truth in enumerate(self._gts[image, category]):
                if not truth["iscrowd"]:
                    a, b = (near_boundary(codes.decode(one["segmentation"])) for one in (detection, truth))
                    ious[d, g] = min(ious[d, g], (a & b).sum() / max((a | b).sum(), 1))
        return ious


def near_boundary(mask: np.ndarray) -> np.ndarray:
    """The pixels whose chessboard distance to a pixel outside the mask or the image is 2 % of the diagonal at most."""
    distance = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
    diagonal = math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)
    return (distance > 0) & (distance <= max(1, round(0.02 * diagonal)))


def reference(truth: dict[str, Any], results: list[dict[str, Any]], evaluation: type = COCOeval) -> dict[str, float]:
    """The twelve metrics and the AP of each class."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        evaluated = evaluation(coco, coco.loadRes(json.loads(json.dumps(results))), "segm")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    metrics = dict(zip(NAMES, evaluated.stats.tolist(), strict=True))
    for c in truth["categories"]:
        place = sorted(one["id"] for one in truth["categories"]).index(c["id"])
        column = evaluated.eval["precision"][:, :, place, 0, 2]
        metrics[f"AP/{c['name']}"] = np.mean(column[column > -1]) if (column > -1).any() else -1
    return {name: math.nan if value == -1 else value for name, value in metrics.items()}


def evaluated(pairs: Pairs, batch_size: int = 5, **options: Any) -> CocoMasks:
    evaluator = CocoMasks(CLASSES, **options)
    for start in range(0, len(pairs), batch_size):
        evaluator.update(*zip(*pairs[start : start + batch_size], strict=True))
    return evaluator


def same(metrics: dict[str, float], expected: dict[str, float]) -> bool:
    """Bit-identical, including nan, in the same order."""
    return list(metrics) == list(expected) and np.array_equal([*metrics.values()], [*expected.values()], equal_nan=True)


def prefixed(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in metrics.items()}


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_and_class_metrics_match_pycocotools(seed: int, backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("densevit.evaluation.coco.fastest_backend", lambda: backend)
    pairs = messy(seed, 30)
    metrics = evaluated(pairs).compute()
    assert same(metrics, prefixed(reference(*as_json(pairs)), "mask_"))
    assert 0.05 < metrics["mask_AP"] < 0.95
    assert all(0 <= metrics[f"mask_AP{letter}"] <= 1 for letter in "sml")
    assert math.isnan(metrics["mask_AP/class 4"])


@pytest.mark.parametrize("seed", range(2))
def test_boundary_metrics_match_the_definition(seed: int):
    pairs = messy(seed)
    masks, boundaries = reference(*as_json(pairs)), reference(*as_json(pairs), BoundaryEval)
    metrics = evaluated(pairs, boundary=True).compute()
    assert same(metrics, prefixed(masks, "mask_") | prefixed(boundaries, "boundary_"))
    assert boundaries["AP"] < masks["AP"] - 0.05
    assert same(evaluated(pairs, boundary=0.02).compute(), metrics)


def test_boundary_iou_by_hand():
    """In 10 x 10 the width is 1: squares of 6 x 6 and 4 x 4 inside it have the boundaries 20 and 12, disjoint."""
    outer, inner = torch.zeros(2, 1, 10, 10, dtype=torch.bool)
    outer[:, 2:8, 2:8], inner[:, 3:7, 3:7] = True, True
    truth = {
        "image_id": 1,
        "masks": RunLengthMasks.from_dense(outer, (10, 10)),
        "labels": torch.zeros(1, dtype=torch.long),
    }
    evaluator = CocoMasks(CLASSES[:1], boundary=True)
    evaluator.update([{"masks": inner, "labels": truth["labels"], "scores": torch.ones(1)}], [truth])
    records = evaluator._sorted()
    row = np.zeros(1, int)
    ious = {prefix: overlaps(row, row).item() for prefix, (_, overlaps) in evaluator.overlaps(records).items()}
    assert ious == {"mask_": 16 / 36, "boundary_": 0}
    assert codes.area({"size": [10, 10], "counts": records.truth_boundaries[0]}) == 20
    assert codes.area({"size": [10, 10], "counts": records.boundaries[0]}) == 12


def test_metrics_do_not_depend_on_batches_order_or_processes():
    pairs = messy(1)
    expected = evaluated(pairs, batch_size=1, boundary=True)
    assert same(evaluated(pairs[::-1], batch_size=30, boundary=True).compute(), expected.compute())
    shards = [pairs[:1], pairs[1:9], pairs[7:], pairs[:2], []]  # uneven, repeated and empty ones
    states = [pickle.loads(pickle.dumps(evaluated(shard, boundary=True).state())) for shard in shards]
    merged = evaluated(pairs[:1], boundary=True)
    merged.merge(states)
    assert same(merged.compute(), expected.compute())
    assert merged.results() == expected.results()
    assert same(evaluated([*pairs, *pairs[:4]]).compute(), evaluated(pairs).compute())


def test_results_match_in_pycocotools():
    pairs = messy(2)
    evaluator = evaluated(pairs)
    results = evaluator.results()
    assert json.loads(json.dumps(results)) == results
    assert {entry["category_id"] for entry in results} <= set(FILE_IDS)
    assert same(evaluator.compute(), prefixed(reference(as_json(pairs)[0], results), "mask_"))


def test_missing_areas_and_crowds_have_defaults():
    pairs = messy(0)
    bare = [(found, {key: truth[key] for key in ("image_id", "masks", "labels")}) for found, truth in pairs]
    full = [
        (
            found,
            truth
            | {"area": torch.tensor(truth["masks"].areas()).float(), "iscrowd": torch.zeros(len(truth["labels"]))},
        )
        for found, truth in bare
    ]
    assert same(evaluated(bare).compute(), evaluated(full).compute())
    unlabelled = [(found, {"image_id": 99_999}) for found, _ in pairs[:1]]
    assert same(evaluated([*pairs, *unlabelled]).compute(), evaluated(pairs).compute())


def test_records_of_many_masks_are_small():
    """Noisy outlines of 100 masks of 480 x 640 pixels, 30.7 MB as bool; 5,000 such images have to fit in 2 GB."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:480, :640]
    masks = np.array([np.hypot(y - 240, x - 320) + rng.normal(0, 0.5, y.shape) < r for r in range(20, 220, 2)])
    truth = {"image_id": 1, "labels": torch.zeros(10, dtype=torch.long)}
    truth["masks"] = RunLengthMasks.from_dense(masks[:10], (480, 640))
    found = {"masks": torch.tensor(masks), "scores": torch.rand(100), "labels": torch.zeros(100, dtype=torch.long)}
    evaluator = CocoMasks(CLASSES)
    evaluator.update([found], [truth])
    assert 5000 * len(pickle.dumps(evaluator.state())) < 1e9


def test_invalid_input_raises():
    masks, one = torch.zeros(1, 4, 5, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    found, coded = {"masks": masks, "scores": torch.ones(1), "labels": one}, RunLengthMasks.from_dense(masks, (4, 5))
    truth = {"image_id": 12, "masks": coded, "labels": one}
    evaluator = create_evaluator("coco_masks", CLASSES)
    cases = [
        (found | {"masks": masks.float()}, truth, r"image 12: predicted `masks` are \(1, 4, 5\) float32; \(N, H, W\)"),
        (
            found,
            truth | {"masks": RunLengthMasks.from_dense(masks.mT, (5, 4))},
            r"image 12: predicted masks are 4 x 5, those of the ground truth are 5 x 4",
        ),
        (found, truth | {"masks": masks}, r"image 12: masks of the ground truth are a Tensor; RunLengthMasks are exp"),
        (found, truth | {"masks": coded[:0]}, r"image 12: ground truth with 0 masks, 1 labels; equally many"),
        (found | {"scores": torch.ones(2)}, truth, r"image 12: predictions with 1 masks, 2 scores, 1 labels"),
        (found | {"labels": one + 5}, truth, r"image 12: predicted label 5, but there are 5 classes"),
        (found, truth | {"labels": one + 5}, r"image 12: label 5, but there are 5 classes"),
        (found | {"scores": torch.tensor([math.nan])}, truth, r"image 12: a predicted .* is not a finite number"),
    ]
    for prediction, target, message in cases:
        with pytest.raises(DensevitError, match=message):
            evaluator.update([prediction], [target])
    assert evaluator.results() == []  # rejected updates have no effect
    for boundary in (0.0, 1.5):
        with pytest.raises(DensevitError, match="boundary is"):
            CocoMasks(CLASSES, boundary=boundary)


DATA = Path(__file__).parents[3] / "shared" / "data" / "coco_tiny" / "annotations" / "instances_val2017.json"


@pytest.mark.filterwarnings("ignore:.*without area")
def test_masks_of_degenerate_boxes_and_beyond_the_image_count_as_in_the_file(tmp_path: Path):
    """pycocotools on the file: polygons that leave the image, boxes without area, crowds; `area` is missing in the
    last, for which the file gets width * height.
    """
    (tmp_path / "val").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "val" / "0.png")
    crowd = rle(ellipses(np.random.default_rng(0), 1, (40, 60))[0])
    uncompressed = {"size": [40, 60], "counts": [1200, 300, 900]}
    annotations = [
        {"segmentation": [[50, 30, 80, 30, 80, 60, 50, 60]], "bbox": [50, 30, 30, 30], "area": 900.0},
        {"segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]], "bbox": [5, 5, 0, 20], "area": 400.0},
        {"segmentation": [[-20, 0, 10, 0, 10, 12, -20, 12]], "bbox": [-20, 0, 30, 12], "area": 1500.0},
        {"segmentation": crowd, "bbox": [0, 0, 60, 40], "area": 99.0, "iscrowd": 1},
        {"segmentation": uncompressed, "bbox": [70, 0, 8, 8], "area": 300.0},
        {"segmentation": [[30, 2, 45, 2, 45, 9, 30, 9]], "bbox": [30, 2, 15, 7]},
    ]
    annotations = [
        {"id": n, "image_id": 0, "category_id": 3, "iscrowd": 0, **one} for n, one in enumerate(annotations, 1)
    ]
    images = [{"id": 0, "file_name": "0.png", "width": 60, "height": 40}]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "val.json").write_text(json.dumps(document))
    dataset = Coco("val", root=str(tmp_path), masks=True)
    truth = dataset[0]["targets"]
    assert len(truth["masks"]) == 6
    evaluator = CocoMasks(dataset.classes["detection"])
    masks = torch.cat([truth["masks"].to("cpu"), torch.ones(1, 40, 60, dtype=torch.bool)])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.75])
    evaluator.update([{"masks": masks, "scores": scores, "labels": torch.zeros(7, dtype=torch.long)}], [truth])
    annotations[-1]["area"] = 105.0
    metrics = evaluator.compute()
    assert same(metrics, prefixed(reference(document, evaluator.results()), "mask_")) and 0.5 < metrics["mask_AP"] < 1


@pytest.mark.skipif(not DATA.is_file(), reason="needs coco_tiny")
def test_real_annotations_match_pycocotools():
    """Polygons and crowds as annotated; each object is detected with a shifted mask."""
    truth = json.loads(DATA.read_text())
    dataset = Coco("val", root=str(DATA.parents[1]), masks=True)
    rng = np.random.default_rng(0)
    evaluator = CocoMasks(dataset.classes["detection"])
    for index in range(len(dataset)):
        target = dataset[index]["targets"]
        annotated = target["masks"].to("cpu")
        shifted = [torch.roll(mask, tuple(rng.integers(-4, 5, 2)), (0, 1)) for mask in annotated]
        scores = torch.tensor(rng.random(len(shifted)), dtype=torch.float32)
        masks = torch.stack(shifted) if shifted else annotated
        evaluator.update([{"masks": masks, "scores": scores, "labels": target["labels"]}], [target])
    assert same(evaluator.compute(), prefixed(reference(truth, evaluator.results()), "mask_"))
