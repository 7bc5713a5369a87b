"""Target types of stick figures: keypoints, and a custom type for the tilt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densevit.errors import DataError
from densevit.interfaces import Class, Drawing, Size, TargetType
from densevit.targets import Keypoints

FIGURE = Keypoints(
    names=("head", "left_hand", "right_hand", "left_foot", "right_foot"),
    skeleton=((0, 1), (0, 2), (0, 3), (0, 4)),
)
SIGMAS = np.array([0.05, 0.08, 0.08, 0.1, 0.1])  # of each keypoint, for the object keypoint similarity
TILT_COLOR = (255, 0, 255)


class Tilt(TargetType):
    """(N,) angles from upright in radians, clockwise, -pi ... pi."""

    per = "object"

    def check(self, value: Any, size: Size) -> None:
        if value.ndim != 1:
            raise DataError(f"has shape {tuple(value.shape)}; expected (N,).")
        if value.dtype.kind != "f":
            raise DataError(f"has the type {value.dtype}; expected floating-point numbers.")
        if not (np.abs(value) < 3.15).all():  # nan, too
            raise DataError(f"has the angle {value[~(np.abs(value) < 3.15)][0]:.4g}; expected -3.14 to 3.14, radians.")

    def hflip(self, value: np.ndarray, size: Size) -> np.ndarray:
        return -value

    def rotate(self, value: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
        return _angles(_directions(value) @ matrix[:, :2].T).astype(value.dtype)

    def resize(self, value: np.ndarray, size: Size, new_size: Size, zoom: float = 1.0) -> np.ndarray:
        scale = np.array([new_size[1] / size[1], new_size[0] / size[0]])
        return _angles(_directions(value) * scale).astype(value.dtype)

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """A line from the centre of each box upwards."""
        for canvas, result in ((drawing.prediction, predictions), (drawing.truth, truth)):
            if canvas is not None and result is not None and key in result and "boxes" in result:
                x0, y0, x1, y1 = result["boxes"].reshape(-1, 4).T
                centres = np.stack([x0 + x1, y0 + y1], axis=1) / 2
                ends = centres + _directions(result[key]) * ((y1 - y0) / 2)[:, None]
                canvas.lines(np.stack([centres, ends], axis=1), TILT_COLOR)

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, np.ndarray]:
        """`tilt`, in degrees."""
        return {"tilt": np.degrees(value.astype(np.float64))}

    def decode(self, encoded: Sequence[Mapping[str, Any]], classes: Sequence[Class]) -> np.ndarray:
        return np.radians(np.array([entry["tilt"] for entry in encoded], np.float64))

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-np.pi, np.pi, objects).astype(np.float32)


def _directions(angles: np.ndarray) -> np.ndarray:
    """(N, 2) unit vectors x, y of angles (N,); y points down, and 0 is upwards."""
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _angles(directions: np.ndarray) -> np.ndarray:
    """Inverse of `_directions`, for vectors of any length."""
    return np.arctan2(directions[:, 0], -directions[:, 1])
