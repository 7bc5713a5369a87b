"""Compares the times of CocoDetection, plain pycocotools and torchmetrics on the same detections, in one run.

    python tools/benchmarks/evaluation.py --images 1000 --classes 80

Each image has about 7 ground-truth objects and 100 detections, as on COCO's val with a DETR. Plain pycocotools collects
COCO results batch by batch, loads them with `loadRes` and evaluates all classes in one call. Ratios are relative to it;
the AP of each implementation is printed too.
"""

import argparse
import contextlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densevit.evaluation import coco_ap
from densevit.interfaces import Class

Pair = tuple[dict[str, Any], dict[str, Any]]


def scenes(images: int, classes: int, detections: int, seed: int = 0) -> list[Pair]:
    """Detections and truths; a third of the detections are near a ground-truth object of their class."""
    rng = np.random.default_rng(seed)
    pairs = []
    for image_id in range(images):
        count = int(rng.integers(1, 15))
        corner, size = rng.uniform(0, 400, (count, 2)), np.exp(rng.uniform(2, 5.5, (count, 2)))
        boxes = torch.tensor(np.concatenate([corner, corner + size], 1), dtype=torch.float32)
        labels = torch.tensor(rng.integers(0, classes, count))
        truth = {"image_id": image_id, "boxes": boxes, "labels": labels, "area": torch.tensor(size.prod(1)).float()}
        truth["iscrowd"] = torch.zeros(count, dtype=torch.bool)
        near = torch.tensor(rng.integers(0, count, detections))
        noise = torch.tensor(rng.normal(0, 0.1, (detections, 4))).float() * (boxes[near, 2:] - boxes[near, :2]).repeat(
            1, 2
        )
        right = torch.tensor(rng.random(detections) < 1 / 3)
        prediction = {"boxes": boxes[near] + noise, "scores": torch.tensor(rng.random(detections)).float()}
        prediction["labels"] = torch.where(right, labels[near], torch.tensor(rng.integers(0, classes, detections)))
        pairs.append((prediction, truth))
    return pairs


def batches(
    pairs: list[Pair], size: int = 8
) -> Iterator[tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]]:
    for start in range(0, len(pairs), size):
        predictions, truths = zip(*pairs[start : start + size], strict=True)
        yield predictions, truths


def with_densevit(pairs: list[Pair], classes: list[Class], backend: str) -> float:
    with mock.patch.object(coco_ap, "fastest_backend", lambda: backend):
        evaluator = coco_ap.CocoDetection(classes)
        for predictions, truths in batches(pairs):
            evaluator.update(predictions, truths)
        return evaluator.metrics()["AP"]


def with_pycocotools(truth: COCO, pairs: list[Pair]) -> float:
    results = []
    for predictions, truths in batches(pairs):
        for prediction, target in zip(predictions, truths, strict=True):
            for (x1, y1, x2, y2), score, label in zip(
                *(prediction[key].tolist() for key in ("boxes", "scores", "labels")), strict=True
            ):
                box = [x1, y1, x2 - x1, y2 - y1]
                results.append({"image_id": target["image_id"], "category_id": label, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def with_torchmetrics(pairs: list[Pair]) -> float:
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(class_metrics=True)
    for predictions, truths in batches(pairs):
        metric.update(list(predictions), [{k: v for k, v in truth.items() if k != "image_id"} for truth in truths])
    return float(metric.compute()["map"])


def as_coco(pairs: list[Pair], classes: list[Class]) -> COCO:
    """The ground truth as pycocotools has it after reading a json, which is not timed."""
    annotations: list[dict[str, Any]] = []
    for _, truth in pairs:
        for (x1, y1, x2, y2), label, area in zip(
            *(truth[key].tolist() for key in ("boxes", "labels", "area")), strict=True
        ):
            entry = {
                "id": len(annotations) + 1,
                "image_id": truth["image_id"],
                "category_id": label,
                "iscrowd": 0,
                "area": area,
            }
            annotations.append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    truth_coco = COCO()
    images, categories = [{"id": truth["image_id"]} for _, truth in pairs], [{"id": c.file_id} for c in classes]
    truth_coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        truth_coco.createIndex()
    return truth_coco


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    args = parser.parse_args()

    classes = [Class(str(n), n, (0, 0, 0)) for n in range(args.classes)]
    pairs = scenes(args.images, args.classes, args.detections)
    truth = as_coco(pairs, classes)
    ways: dict[str, Callable[[], float]] = {
        "plain pycocotools": lambda: with_pycocotools(truth, pairs),
        "torchmetrics": lambda: with_torchmetrics(pairs),
        "CocoDetection, pycocotools": lambda: with_densevit(pairs, classes, "pycocotools"),
        "CocoDetection, faster-coco-eval": lambda: with_densevit(pairs, classes, "faster-coco-eval"),
    }
    print(f"{args.images} images, {args.classes} classes, {args.detections} detections per image")
    first = None
    for name, way in ways.items():
        start = time.perf_counter()
        ap = way()
        seconds = time.perf_counter() - start
        first = first or seconds
        print(f"{name:34}{seconds:8.2f} s{first / seconds:8.2f} x   AP {ap!r}")


if __name__ == "__main__":
    main()
