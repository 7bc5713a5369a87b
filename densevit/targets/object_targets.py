"""Target types with one row per object: boxes, labels, instance masks. Scores: `object_scores`; also `keypoints`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from densevit.errors import DataError
from densevit.interfaces import Canvas, Class, Drawing, Size, TargetType, Window
from densevit.targets.run_length_masks import RunLengthMasks

MIN_SIDE = 1e-3  # pixels; narrower clipped boxes come from rounding errors


class ObjectType(TargetType):
    """One row per object. dtype: the type of the values in losses; None: any."""

    per: ClassVar[Literal["image", "object", "pixel"]] = "object"
    task: str | None = "detection"
    dtype: torch.dtype | None = None

    def paste(self, value: Any, pasted: Any, covered: np.ndarray) -> Any:
        """Joins the rows."""
        return np.concatenate([value, pasted])

    def mix(self, value: Any, other: Any, share: float) -> Any:
        """Joins the rows: all objects of both images (Zhang et al. 2019, Bag of freebies, section 3.1)."""
        return np.concatenate([value, other])


class Boxes(ObjectType):
    """(N, 4) xyxy in pixels."""

    dtype = torch.float32

    def check(self, value: Any, size: Size) -> None:
        if value.ndim != 2 or value.shape[1] != 4:
            raise DataError(f"has shape {tuple(value.shape)}; expected (N, 4), also without objects.")
        if not np.isfinite(value).all():
            raise DataError(f"has a box that is not finite: {value.tolist()}.")
        if wrong := int((value[:, 2:] < value[:, :2]).any(axis=1).sum()):
            raise DataError(f"have x2 < x1 or y2 < y1 in {wrong} of {len(value)}: are they xywh? Fix: x2 = x + w.")

    def implausible(self, values: Sequence[tuple[np.ndarray, Size]], num_classes: int) -> str:
        boxes = np.concatenate([value for value, _ in values])
        sides = np.concatenate([np.broadcast_to(_sides(size), value.shape) for value, size in values])
        if not len(boxes):
            return ""
        height, width = values[-1][1]
        is_relative = ((boxes >= 0) & (boxes <= 1)).all() and (boxes % 1).any()  # [0, 0, 1, 1] is a pixel
        if is_relative and sides.max() > 1:
            return f"all lie within 0 ... 1 in an image of {width} x {height}: are they relative? Fix: scale them."
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        outside = int(((centres < 0) | (centres > sides[:, :2])).any(axis=1).sum())
        if 2 * outside > len(boxes):
            return (
                f"lie outside of their image in {outside} of {len(boxes)} cases, as in one of {width} x {height}: are "
                "they of an image of another size? Fix: scale them with the image."
            )
        return ""

    def value_range(self, value: np.ndarray, size: Size) -> float:
        """Returns the longer side of the image."""
        return max(size)

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        self.check(value, size)
        if value.dtype.kind != "f":
            raise DataError(f"has the type {value.dtype}; expected floating-point numbers.")

    def usable(self, value: np.ndarray, size: Size) -> np.ndarray:
        clipped = self.clip(value, size)
        return np.asarray((clipped[:, 2:] > clipped[:, :2]).all(axis=1))

    def clip(self, value: np.ndarray, size: Size) -> np.ndarray:
        return np.clip(value, 0, _sides(size)).astype(np.float32)

    def hflip(self, value: np.ndarray, size: Size) -> np.ndarray:
        left, top, right, bottom = value.T
        return np.stack([size[1] - right, top, size[1] - left, bottom], axis=1)

    def rotate(self, value: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
        """Returns the axis-aligned boxes around the rotated boxes."""
        corners = rotated_points(value[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), matrix)
        return np.concatenate([corners.min(1), corners.max(1)], axis=1)

    def crop(self, value: np.ndarray, window: Window, size: Size) -> np.ndarray:
        top, left, _, _ = window
        return np.asarray(value - np.array([left, top, left, top]))

    def resize(self, value: np.ndarray, size: Size, new_size: Size, zoom: float = 1.0) -> np.ndarray:
        return np.asarray(value * (_sides(new_size) / _sides(size)).astype(value.dtype))

    def visible(self, value: np.ndarray, size: Size) -> np.ndarray:
        clipped = np.clip(value, 0, _sides(size))
        return np.asarray((clipped[:, 2:] - clipped[:, :2] >= MIN_SIDE - 1e-7).all(axis=1))

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws boxes with class names and scores, high scores on top. Crowds in the ground truth are marked."""
        for canvas, result in drawn_values(drawing, key, predictions, truth):
            boxes, labels, scores = result[key].reshape(-1, 4), result["labels"], result.get("scores")
            order = np.arange(len(boxes)) if scores is None else np.argsort(-scores, kind="stable")
            crowds = result.get("iscrowd", np.zeros(len(boxes), bool))
            colors = [classes[labels[n]].color for n in order]
            names = [classes[labels[n]].name + (" (crowd)" if crowds[n] else "") for n in order]
            suffixes = ["" if scores is None else f" {scores[n]:.2f}" for n in order]
            canvas.boxes(boxes[order], colors, list(zip(names, suffixes, strict=True)))

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, np.ndarray]:
        """Returns `bbox`: x, y, width, height, (N, 4)."""
        return {"bbox": xywh(value)}

    def decode(self, encoded: Sequence[Mapping[str, Any]], classes: Sequence[Class]) -> np.ndarray:
        boxes = np.array([entry["bbox"] for entry in encoded], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        """Returns boxes at least 4 pixels wide and high. size: (h, w), at least 8 pixels each."""
        corners = np.sort(rng.random((objects, 2, 2), dtype=np.float32), axis=1)  # (N, (low, high), (x, y))
        room = np.array([size[1] - 4, size[0] - 4], np.float32)
        return np.concatenate([corners[:, 0] * room, corners[:, 1] * room + 4], axis=1)


class ObjectLabels(ObjectType):
    """(N,) class indices."""

    dtype = torch.int64

    def check(self, value: Any, size: Size) -> None:
        check_column(value, "iu", "integers")

    def check_classes(self, value: np.ndarray, num_classes: int) -> None:
        check_range(value, 0, num_classes - 1)

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        self.check(value, size)
        if value.dtype != np.int64:
            raise DataError(f"has the type {value.dtype}; expected int64.")
        self.check_classes(value, num_classes)

    def map_classes(self, value: np.ndarray, table: np.ndarray, classes: Sequence[Class]) -> np.ndarray:
        return np.asarray(table[value])

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, np.ndarray]:
        """Returns `category_id`: the class ids in annotation files, (N,)."""
        return {"category_id": np.array([c.file_id for c in classes], np.int64)[value]}

    def decode(self, encoded: Sequence[Mapping[str, Any]], classes: Sequence[Class]) -> np.ndarray:
        index = {c.file_id: i for i, c in enumerate(classes)}
        ids = [entry["category_id"] for entry in encoded]
        if wrong := [file_id for file_id in ids if not isinstance(file_id, int) or file_id not in index]:
            raise DataError(f"has the category_id {wrong[0]!r}, which no class of the model has.")
        return np.array([index[file_id] for file_id in ids], np.int64)

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(max(num_classes, 1), size=objects)


class InstanceMasks(ObjectType):
    """`RunLengthMasks` of N objects; in predictions, (N, H, W) bool."""

    layer = -1

    def check(self, value: Any, size: Size) -> None:
        if not isinstance(value, RunLengthMasks):
            raise DataError(
                f"is a {type(value).__name__}; expected RunLengthMasks. Fix: "
                "densevit.RunLengthMasks.from_dense(masks, (height, width)), where each mask is (height, width) bool."
            )
        if value.size != size:
            raise DataError(f"has shape {value.shape}; expected (N, {size[0]}, {size[1]}).")

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        if value.ndim != 3 or tuple(value.shape[1:]) != size:
            raise DataError(f"has shape {tuple(value.shape)}; expected (N, {size[0]}, {size[1]}).")
        if value.dtype != bool:
            raise DataError(f"has the type {value.dtype}; expected bool.")

    def hflip(self, value: RunLengthMasks, size: Size) -> RunLengthMasks:
        return value.hflip()

    def rotate(self, value: RunLengthMasks, matrix: np.ndarray, size: Size) -> RunLengthMasks:
        return value.rotate(matrix)

    def crop(self, value: RunLengthMasks, window: Window, size: Size) -> RunLengthMasks:
        return value.crop(window)

    def resize(self, value: RunLengthMasks, size: Size, new_size: Size, zoom: float = 1.0) -> RunLengthMasks:
        return value.resize(new_size)

    def visible(self, value: RunLengthMasks, size: Size) -> np.ndarray:
        return value.areas() > 0

    def paste(self, value: RunLengthMasks, pasted: RunLengthMasks, covered: np.ndarray) -> RunLengthMasks:
        """Joins the masks; covered pixels are removed from the masks of the image."""
        return value.without(covered).joined(pasted)

    def mix(self, value: RunLengthMasks, other: RunLengthMasks, share: float) -> RunLengthMasks:
        """Joins the masks, which may overlap."""
        return value.joined(other)

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws masks with outlines, high scores on top, and with names unless there are boxes, which show them."""
        for canvas, result in drawn_values(drawing, key, predictions, truth):
            if not len(result[key]):
                continue
            scores, labels = result.get("scores"), result["labels"]
            order = np.arange(len(labels)) if scores is None else np.argsort(-scores, kind="stable")
            masks = np.asarray(result[key]).astype(bool, copy=False)
            ids = np.where(masks.any(axis=0), masks[order].argmax(axis=0), -1)  # (H, W), the topmost mask
            shown = {rank: classes[labels[n]] for rank, n in enumerate(order)}
            names = {} if "boxes" in result else {rank: c.name for rank, c in shown.items()}
            canvas.segments(ids, {rank: c.color for rank, c in shown.items()}, names)

    def encode(self, value: np.ndarray | RunLengthMasks, classes: Sequence[Class]) -> dict[str, list[dict[str, Any]]]:
        """Returns `segmentation`: COCO's compressed run-length codes."""
        masks = value if isinstance(value, RunLengthMasks) else RunLengthMasks.from_dense(value, value.shape[1:])
        return {"segmentation": [{"size": [*masks.size], "counts": code.decode()} for code in masks.codes()]}

    def decode(self, encoded: Sequence[Mapping[str, Any]], classes: Sequence[Class]) -> RunLengthMasks:
        codes = [entry["segmentation"]["counts"].encode() for entry in encoded]
        return RunLengthMasks.from_codes(codes, tuple(encoded[0]["segmentation"]["size"]) if encoded else (0, 0))

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> RunLengthMasks:
        """Returns masks of the pixels whose centres are in random boxes."""
        y, x = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
        x0, y0, x1, y1 = Boxes().random(size, objects, num_classes, rng).T[:, :, None, None]  # (N, 1, 1) each
        return RunLengthMasks.from_dense((y >= y0) & (y < y1) & (x >= x0) & (x < x1), size)


class CrowdFlags(ObjectType):
    """(N,) bool: whether an object is a crowd region, which evaluation ignores and training leaves out."""

    truth_only = True

    def usable(self, value: np.ndarray, size: Size) -> np.ndarray:
        return ~value.astype(bool)


class Areas(ObjectType):
    """(N,) areas in pixels, as annotated."""

    truth_only = True


def drawn_values(
    drawing: Drawing, key: str, predictions: Mapping[str, Any], truth: Mapping[str, Any] | None
) -> Iterator[tuple[Canvas, Mapping[str, Any]]]:
    """Yields the image for predictions with the predictions, and the one for ground truth with the ground truth, if it
    is drawn; without values of the key, neither."""
    for canvas, values in ((drawing.prediction, predictions), (drawing.truth, truth)):
        if canvas is not None and values is not None and key in values:
            yield canvas, values


def xywh(boxes: np.ndarray) -> np.ndarray:
    """Converts corners (N, 4) to x, y, width, height, in float64.

    float64 corners come from files, as x + width. Recovers the file's width, if it has up to nine decimal places: the
    last bits of (x + width) - x differ, which matters for IoUs exactly at a threshold.
    """
    corners = boxes.astype(np.float64)
    low, high = corners[:, :2], corners[:, 2:]
    sides = high - low
    if boxes.dtype == np.float64:
        is_exact = np.zeros(sides.shape, bool)
        for decimals in range(10):  # the fewest decimal places for which low + width equals high
            rounded = np.round(high - low, decimals)
            new = ~is_exact & (low + rounded == high)
            sides, is_exact = np.where(new, rounded, sides), is_exact | new
    return np.concatenate([low, sides], axis=1)


def check_column(value: np.ndarray, kinds: str, expected: str) -> None:
    """Raises DataError unless the shape is (N,), and the kind of the type one of numpy's `kinds`, which are
    `expected`."""
    if value.ndim != 1:
        raise DataError(f"has shape {tuple(value.shape)}; expected (N,).")
    if value.dtype.kind not in kinds:
        raise DataError(f"has the type {value.dtype}; expected {expected}.")


def check_range(value: np.ndarray, low: float, high: float) -> None:
    """Raises DataError unless all values are in low ... high."""
    if value.size and not low <= value.min() <= value.max() <= high:
        raise DataError(f"ranges from {value.min():.4g} to {value.max():.4g}; expected {low:g} to {high:g}.")


def _sides(size: Size) -> np.ndarray:
    """(4,) float64: W, H, W, H."""
    return np.array((size[1], size[0]) * 2, np.float64)


def rotated_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Rotates points (..., 2). The centre of the first pixel is at 0.5 in points and at 0 in the matrix."""
    return np.asarray((points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5)
