"""Matching of detections and ground truth by pycocotools, the reference, or by faster-coco-eval.

Each library is called once per class, with only the images that contain it. The results equal those of a single call,
in a fraction of the memory: the libraries need a Python dict per object. They receive IoU matrices, so the same code
matches and accumulates boxes and masks.
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

AREAS = ("all", "small", "medium", "large")
_BOUNDS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))  # in both libraries; both bounds are inclusive


@dataclass(frozen=True)
class OneClass:
    """D detections and G ground-truth objects of one class.

    images, truth_images: image index of each row; of equal scores, the lower index comes first.
    sizes, areas: areas of detections and of annotations in pixels. crowds: (G,) bool.
    overlaps: maps d rows of detections and g rows of ground truth of one image to their IoUs (d, g) in float64.
    """

    images: np.ndarray  # (D,)
    sizes: np.ndarray  # (D,)
    scores: np.ndarray  # (D,)
    truth_images: np.ndarray  # (G,)
    areas: np.ndarray  # (G,)
    crowds: np.ndarray
    overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray]


def fastest_backend() -> str:
    """The name of the fastest installed backend."""
    return "faster-coco-eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"


def curves(backend: str, data: OneClass, limits: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, A, M) and recall (T, A, M), bit-identical for both backends.

    T IoU thresholds from 0.5 to 0.95, R recall thresholds from 0 to 1, A `AREAS`, M `limits` on detections per image.
    -1 if no ground truth has that area.
    """
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return _evaluate(COCO, COCOeval, data, limits)
    from faster_coco_eval import COCO, COCOeval_faster

    # pycocotools divides by the number of detections + 2.2e-16, which matters if that number is 1: after one correct
    # detection its precision is 0.9999999999999998, unless a second correct detection follows at once, where
    # faster-coco-eval gives 1 in both cases. An additional recall threshold per area, between one and two
    # matches, tells.
    between = 1.5 / np.maximum(_truths_by_area(data), 1)  # (A,)
    precision, recall = _evaluate(COCO, COCOeval_faster, data, limits, more_recalls=between)
    precision, beyond = precision[:, : -len(AREAS)], precision[:, -len(AREAS) :]  # (T, R, A, M), (T, A, A, M)
    one_alone = np.stack([beyond[:, area, area] < 1 for area in range(len(AREAS))], axis=1)[:, None]  # (T, 1, A, M)
    return np.where((precision == 1) & one_alone, 1 / (1 + np.spacing(1)), precision), recall


def _evaluate(
    coco: Any, coco_eval: Any, data: OneClass, limits: tuple[int, ...], more_recalls: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    images = np.union1d(data.images, data.truth_images).tolist()
    truths = _annotations(data.truth_images, area=data.areas, iscrowd=data.crowds.astype(int))
    detections = _annotations(data.images, area=data.sizes, iscrowd=np.zeros(len(data.sizes), int), score=data.scores)
    overlaps = _overlaps_by_image(data, limits[-1])

    class Evaluation(coco_eval):
        def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802  # of both libraries
            return overlaps.get(image, [])

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = Evaluation(_index(coco, images, truths), _index(coco, images, detections), "bbox")
        evaluation.params.maxDets = list(limits)
        if more_recalls is not None:
            evaluation.params.recThrs = np.concatenate([evaluation.params.recThrs, more_recalls])
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0]


def _overlaps_by_image(data: OneClass, limit: int) -> dict[int, np.ndarray]:
    """For images with detections and ground truth: the IoUs of the `limit` detections with the highest scores."""
    order, truth_order = np.lexsort((-data.scores, data.images)), np.argsort(data.truth_images, kind="stable")
    images, truth_images = data.images[order], data.truth_images[truth_order]
    both = np.intersect1d(images, truth_images)
    starts, ends = np.searchsorted(images, both), np.searchsorted(images, both, "right")
    truth_starts, truth_ends = np.searchsorted(truth_images, both), np.searchsorted(truth_images, both, "right")
    rows = [order[start : min(end, start + limit)] for start, end in zip(starts, ends, strict=True)]
    truths = [truth_order[start:end] for start, end in zip(truth_starts, truth_ends, strict=True)]
    return {image: data.overlaps(*pair) for image, *pair in zip(both.tolist(), rows, truths, strict=True)}


def _annotations(images: np.ndarray, **fields: np.ndarray) -> list[dict[str, Any]]:
    """Rows as dicts of a COCO JSON with only category 1; ids from 1, since both libraries use 0 for "unmatched"."""
    columns = {"image_id": images, **fields}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"id": n, "category_id": 1, **dict(zip(columns, row, strict=True))} for n, row in enumerate(rows, start=1)]


def _index(coco: Any, images: list[int], annotations: list[dict[str, Any]]) -> Any:
    index = coco()
    index.dataset = {"images": [{"id": n} for n in images], "categories": [{"id": 1}], "annotations": annotations}
    index.createIndex()
    return index


def _truths_by_area(data: OneClass) -> np.ndarray:
    """The number of ground-truth objects in each of `AREAS`, without crowds."""
    areas = data.areas[~data.crowds]
    return np.array([np.count_nonzero((areas >= low) & (areas <= high)) for low, high in _BOUNDS])
