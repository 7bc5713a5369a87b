"""Tables and plots of average precision, from the curves of COCO's evaluation."""

from collections.abc import Mapping, Sequence

import numpy as np

from densevit.evaluation.backends import AREAS
from densevit.interfaces import Class, Plot, Table

MAX_CURVES = 10  # of single classes in a plot: the five best and the five worst
RECALLS = [n / 100 for n in range(101)]


def class_table(
    precision: np.ndarray,
    recall: np.ndarray,
    classes: Sequence[Class],
    objects: np.ndarray,
    detections: np.ndarray,
    limit: int,
) -> Table:
    """One row per class: the numbers of objects and detections, AP by IoU and by size, and AR. limit: detections per
    image.

    precision: (T, R, K, A, M), recall: (T, K, A, M), as in `AveragePrecision`, in the order of the classes; -1 without
    ground truth. objects, detections: (K,) counts.
    """
    areas = {f"AP{letter}": AREAS.index(name) for letter, name in (("s", "small"), ("m", "medium"), ("l", "large"))}
    rows: list[Sequence[str | int | float]] = [
        ["class", "objects", "predictions", "AP", "AP50", "AP75", *areas, f"AR{limit}"]
    ]
    for k, c in enumerate(classes):
        values = [precision[:, :, k, 0, -1], precision[0, :, k, 0, -1], precision[5, :, k, 0, -1]]
        values += [precision[:, :, k, area, -1] for area in areas.values()]
        numbers = [mean(value) for value in [*values, recall[:, k, 0, -1]]]
        rows.append([c.name, int(objects[k]), int(detections[k]), *numbers])
    return rows


def precision_recall(precision: np.ndarray, classes: Sequence[Class]) -> dict[str, Plot]:
    """Plots of precision against recall: means over classes at several IoUs, and single classes at an IoU of 0.5.

    precision: (T, R, K).
    """
    present = np.flatnonzero((precision > -1).all(axis=(0, 1)))
    if not len(present):
        return {}
    means = precision[:, :, present].mean(axis=2)  # (T, R)
    by_iou = {"IoU 0.50": means[0], "IoU 0.75": means[5], "mean of IoU 0.50 to 0.95": means.mean(axis=0)}
    shown = best_and_worst({k: float(precision[0, :, k].mean()) for k in present.tolist()})
    by_class = {classes[k].name: precision[0, :, k] for k in shown}
    return {"precision-recall": _plot(by_iou), "precision-recall of classes": _plot(by_class)}


def best_and_worst(scores: Mapping[int, float]) -> list[int]:
    """The classes with curves of their own, best first, from the scores of all classes."""
    ranked = sorted(scores, key=lambda k: -scores[k])
    return ranked if len(ranked) <= MAX_CURVES else ranked[: MAX_CURVES // 2] + ranked[-MAX_CURVES // 2 :]


def mean(values: np.ndarray) -> float:
    """The mean of values above -1, summed in pycocotools' order; nan if there are none."""
    valid = values[values > -1]
    return float(np.mean(valid)) if valid.size else float("nan")


def _plot(curves: dict[str, np.ndarray]) -> Plot:
    points = {name: list(zip(RECALLS, values.tolist(), strict=True)) for name, values in curves.items()}
    return Plot("recall", "precision", points, unit_axes=True)
