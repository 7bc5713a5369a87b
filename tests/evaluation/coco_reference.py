"""pycocotools on a COCO JSON, and the images of tests in its form."""

import contextlib
import io
import json
import math
from typing import Any

import numpy as np
from pycocotools import mask as codes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from densevit.interfaces import Class, Evaluator

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
FILE_IDS = (90, 3, 17, 1, 44, 62)  # gaps, and not in order
CLASSES = tuple(Class(f"class {n}", file_id, (n, n, n)) for n, file_id in enumerate(FILE_IDS))

Pairs = list[tuple[dict[str, Any], dict[str, Any]]]


def reference(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: str = "bbox", evaluation: type = COCOeval
) -> dict[str, float]:
    """The twelve metrics and the AP of each class, nan where pycocotools has -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        evaluated = evaluation(coco, coco.loadRes(json.loads(json.dumps(results))), kind)
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    metrics = dict(zip(NAMES, evaluated.stats.tolist(), strict=True))
    for one in truth["categories"]:
        place = sorted(category["id"] for category in truth["categories"]).index(one["id"])
        column = evaluated.eval["precision"][:, :, place, 0, 2]
        metrics[f"AP/{one['name']}"] = np.mean(column[column > -1]) if (column > -1).any() else -1
    return {name: math.nan if value == -1 else value for name, value in metrics.items()}


def rle(mask: Any) -> dict[str, Any]:
    encoded = codes.encode(np.asfortranarray(np.asarray(mask, np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def shape_of(box_or_mask: Any) -> dict[str, Any]:
    """The `bbox` of corners or the `segmentation` of a mask (H, W)."""
    if box_or_mask.ndim == 2:
        return {"segmentation": rle(box_or_mask)}
    x1, y1, x2, y2 = box_or_mask.tolist()
    return {"bbox": [x1, y1, x2 - x1, y2 - y1]}


def as_json(pairs: Pairs, key: str = "boxes") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same images as a COCO JSON and COCO results, object by object. key: `boxes` or `masks`."""
    annotations: list[dict[str, Any]] = []
    results, images = [], []
    for found, truth in pairs:
        columns = (truth[name].tolist() for name in ("labels", "area", "iscrowd"))
        for shape, label, area, crowd in zip(truth[key], *columns, strict=True):
            entry = {"id": len(annotations) + 1, "image_id": truth["image_id"], "category_id": FILE_IDS[label]}
            annotations.append(entry | shape_of(shape) | {"area": area, "iscrowd": int(crowd)})
        for shape, label, score in zip(found[key], found["labels"].tolist(), found["scores"].tolist(), strict=True):
            entry = {"image_id": truth["image_id"], "category_id": FILE_IDS[label], "score": score}
            results.append(entry | shape_of(shape))
        size = dict(zip(("height", "width"), found["masks"].shape[1:], strict=True)) if key == "masks" else {}
        images.append({"id": truth["image_id"], **size})
    categories = [{"id": c.file_id, "name": c.name} for c in CLASSES]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def updated(evaluator: Any, pairs: Pairs, batch_size: int = 7) -> Any:
    """The evaluator after updates with batches of the pairs."""
    assert isinstance(evaluator, Evaluator)
    for start in range(0, len(pairs), batch_size):
        evaluator.update(*zip(*pairs[start : start + batch_size], strict=True))
    return evaluator


def same(metrics: dict[str, float], expected: dict[str, float]) -> bool:
    """Bit-identical, including nan, in the same order."""
    return list(metrics) == list(expected) and np.array_equal([*metrics.values()], [*expected.values()], equal_nan=True)


def near_boundary(mask: np.ndarray, ratio: float) -> np.ndarray:
    """The pixels whose chessboard distance to a pixel outside the mask or the image is this share of the diagonal at
    most, the boundary region of Cheng et al. 2021."""
    distance = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
    diagonal = math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)
    return (distance > 0) & (distance <= max(1, round(ratio * diagonal)))
