"""The target type of keypoints."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densevit.errors import DataError
from densevit.interfaces import Class, Drawing, Size, Window
from densevit.targets.object_targets import ObjectType, drawn_values, rotated_points

COCO_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
COCO_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)


class Keypoints(ObjectType):
    """(N, K, 3): x and y in pixels, and visibility as in COCO: 0 not labelled, 1 labelled and hidden, 2 visible.

    In predictions the third value is a score. The centre of the first pixel is at 0.5; in COCO's files it is at 0.
    names: the names of the K keypoints. flip_pairs: index pairs of left and right keypoints, which a flip exchanges.
    skeleton: index pairs of keypoints that visualizations connect.
    """

    layer = 1

    def __init__(
        self,
        names: Sequence[str] = COCO_KEYPOINTS,
        flip_pairs: Sequence[tuple[int, int]] | None = None,
        skeleton: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.names = tuple(names)
        if flip_pairs is None:
            index = {name: i for i, name in enumerate(self.names)}
            rights = {name: name.replace("left", "right") for name in self.names if "left" in name}
            flip_pairs = [(index[name], index[right]) for name, right in rights.items() if right in index]
        self.flipped = np.arange(len(self.names))  # index permutation of a flip
        for a, b in flip_pairs:
            self.flipped[[a, b]] = b, a
        default = COCO_SKELETON if self.names == COCO_KEYPOINTS else ()
        self.skeleton = tuple(default if skeleton is None else skeleton)

    def check(self, value: Any, size: Size) -> None:
        if value.ndim != 3 or value.shape[1:] != (len(self.names), 3):
            raise DataError(
                f"has shape {tuple(value.shape)}; expected (N, {len(self.names)}, 3): x, y and visibility of "
                f"{', '.join(self.names[:4])}{' ...' if len(self.names) > 4 else ''}."
            )
        if not np.isfinite(value).all():
            raise DataError("has values that are not finite.")

    def hflip(self, value: np.ndarray, size: Size) -> np.ndarray:
        flipped = value[:, self.flipped].copy()
        flipped[..., 0] = size[1] - flipped[..., 0]
        return _unlabelled_as_zeros(flipped)

    def rotate(self, value: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
        points = rotated_points(value[..., :2].astype(np.float64), matrix)
        return _inside(np.concatenate([points, value[..., 2:]], axis=2), size)

    def crop(self, value: np.ndarray, window: Window, size: Size) -> np.ndarray:
        top, left, bottom, right = window
        return _inside(value - np.array([left, top, 0], value.dtype), (bottom - top, right - left))

    def resize(self, value: np.ndarray, size: Size, new_size: Size, zoom: float = 1.0) -> np.ndarray:
        return np.asarray(value * np.array([new_size[1] / size[1], new_size[0] / size[0], 1], value.dtype))

    def clip(self, value: np.ndarray, size: Size) -> np.ndarray:
        return _inside(value, size).astype(np.float32)

    def paste(self, value: np.ndarray, pasted: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """Joins the rows; keypoints at covered pixels become hidden."""
        height, width = covered.shape
        x, y = np.floor(value[..., 0]).astype(int), np.floor(value[..., 1]).astype(int)
        inside = (value[..., 2] > 0) & (x < width) & (y < height)
        hidden = value.copy()
        hidden[..., 2][inside & covered[np.minimum(y, height - 1), np.minimum(x, width - 1)]] = 1
        return np.concatenate([hidden, pasted])

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws labelled keypoints and their skeleton in the colours of the classes. Without a skeleton if the number
        of keypoints is not K.
        """
        for canvas, result in drawn_values(drawing, key, predictions, truth):
            labels = result.get("labels", np.zeros(len(result[key]), np.int64))
            skeleton = self.skeleton if result[key].shape[1] == len(self.names) else ()
            for points, label in zip(result[key], labels, strict=True):
                color, shown = classes[label].color if classes else (230, 60, 40), points[:, 2] > 0
                lines = [points[[a, b], :2] for a, b in skeleton if shown[a] and shown[b]]
                canvas.lines(np.array(lines).reshape(-1, 2, 2), color)
                canvas.points(points[shown, :2], color)

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, list[list[float]]]:
        """Returns `keypoints`: a flat list of x, y, and visibility or score per object."""
        moved = value.astype(np.float64)
        moved[..., :2] -= 0.5
        return {"keypoints": _unlabelled_as_zeros(moved).reshape(len(value), 3 * value.shape[1]).tolist()}

    def decode(self, encoded: Sequence[Mapping[str, Any]], classes: Sequence[Class]) -> np.ndarray:
        values = np.array([entry["keypoints"] for entry in encoded], np.float64).reshape(-1, len(self.names), 3)
        values[..., :2] += 0.5
        return _unlabelled_as_zeros(values)

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        values = rng.random((objects, len(self.names), 3), dtype=np.float32)
        values[..., :2] *= (size[1], size[0])
        values[..., 2] = rng.integers(3, size=values.shape[:2])
        return _unlabelled_as_zeros(values)


def _unlabelled_as_zeros(points: np.ndarray) -> np.ndarray:
    points[points[..., 2] == 0] = 0
    return points


def _inside(points: np.ndarray, size: Size) -> np.ndarray:
    """Marks keypoints (N, K, 3) outside of an image as not labelled."""
    x, y = points[..., 0], points[..., 1]
    points = points.copy()
    points[~((x >= 0) & (y >= 0) & (x <= size[1]) & (y <= size[0]))] = 0
    return _unlabelled_as_zeros(points)
