"""Target types of image classification: the class of an image, its score, and the scores of all classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from densevit.errors import DataError
from densevit.interfaces import Class, Drawing, Size, TargetType
from densevit.targets.object_targets import check_range, drawn_values

_NO_CLASS = "no class"
LISTED = 5  # number of classes with the highest scores in files and drawings


class ImageClass(TargetType):
    """A class index, () int64; -1 = unlabelled.

    After mixing images (`data.mixup`, `data.cutmix`), (M, 2) float32: class indices and their shares, which sum to 1.
    """

    task: str | None = "classification"

    def check(self, value: Any, size: Size) -> None:
        array = np.asarray(value)
        if array.dtype.kind in "iu" and array.ndim == 0:
            return
        if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] != 2:
            raise DataError(
                f"is {array.dtype} of shape {array.shape}; expected a class index, one integer, or (M, 2) class "
                "indices with their shares."
            )

    def check_classes(self, value: Any, num_classes: int) -> None:
        array = np.asarray(value)
        check_range(array if array.ndim == 0 else array[:, 0], -1, num_classes - 1)

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        self.check(value, size)
        check_range(np.asarray(value), 0, num_classes - 1)

    def mix(self, value: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
        rows = [_shares(value) * (1, share), _shares(other) * (1, 1 - share)]
        return np.concatenate(rows).astype(np.float32)

    def map_classes(self, value: Any, table: np.ndarray, classes: Sequence[Class]) -> np.ndarray:
        """A class without a new index becomes -1."""
        return np.where(value < 0, -1, table[value])

    def unlabelled(self, size: Size) -> list[np.ndarray]:
        return [np.array(-1, np.int64)]

    def text(self, value: Any, classes: Sequence[Class]) -> str:
        """Returns the name of the class."""
        return classes[int(value)].name if 0 <= int(value) < len(classes) else _NO_CLASS

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Writes the class with its score on the image, and the true class on the ground truth."""
        for canvas, values in drawn_values(drawing, key, predictions, truth):
            index, score = int(values[key]), values.get("image_score")
            color = classes[index].color if 0 <= index < len(classes) else (255, 255, 255)
            canvas.caption(self.text(index, classes), "" if score is None else f" {float(score):.2f}", color)

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> str:
        """Returns the name of the class."""
        return self.text(value, classes)

    def decode(self, encoded: str, classes: Sequence[Class]) -> np.ndarray:
        names = [c.name for c in classes]
        return np.array(-1 if encoded == _NO_CLASS and encoded not in names else names.index(encoded), np.int64)

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        return np.array(rng.integers(max(num_classes, 1)), np.int64)


class ImageScore(TargetType):
    """The score of an image's class, () float32 from 0 to 1."""

    def check(self, value: Any, size: Size) -> None:
        array = np.asarray(value)
        if array.ndim or array.dtype.kind != "f":
            raise DataError(f"is {array.dtype} of shape {array.shape}; expected one floating-point number.")
        check_range(array, 0, 1)

    def text(self, value: Any, classes: Sequence[Class]) -> str:
        return f"{float(value):.2f}"

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> float:
        return float(value)

    def decode(self, encoded: float, classes: Sequence[Class]) -> np.ndarray:
        return np.array(encoded, np.float32)

    def value_range(self, value: np.ndarray, size: Size) -> float:
        return 1.0

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        return np.array(rng.random(), np.float32)


class ClassScores(TargetType):
    """The scores of all classes of an image, (K,) float32 from 0 to 1. Files and drawings list the five highest."""

    task: str | None = "classification"

    def check(self, value: Any, size: Size) -> None:
        array = np.asarray(value)
        if array.ndim != 1 or array.dtype.kind != "f":
            raise DataError(f"is {array.dtype} of shape {array.shape}; expected (K,) floating-point numbers.")
        check_range(array, 0, 1)

    def check_classes(self, value: Any, num_classes: int) -> None:
        if len(value) != num_classes:
            raise DataError(f"has {len(value)} scores; expected {num_classes}, one per class.")

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        self.check(value, size)
        self.check_classes(value, num_classes)

    def map_classes(self, value: np.ndarray, table: np.ndarray, classes: Sequence[Class]) -> np.ndarray:
        """Sums the scores of the old classes of each new class. Drops scores of classes without a new index."""
        mapped = np.zeros(len(classes), value.dtype)
        np.add.at(mapped, table[table >= 0], value[table >= 0])
        return mapped

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Lists the classes with the highest scores in the legend."""
        scores = predictions[key]
        drawing.legend([replace(classes[n], name=f"{classes[n].name} {scores[n]:.2f}") for n in _highest(scores)])

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, float]:
        """Returns the five highest scores by class name, highest first."""
        return {classes[n].name: float(value[n]) for n in _highest(value)}

    def decode(self, encoded: Mapping[str, float], classes: Sequence[Class]) -> np.ndarray:
        """Reads the written scores; the others are 0."""
        return np.array([encoded.get(c.name, 0.0) for c in classes], np.float32)

    def value_range(self, value: np.ndarray, size: Size) -> float:
        return 1.0

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        return rng.dirichlet(np.ones(max(num_classes, 1))).astype(np.float32)


def _shares(value: np.ndarray) -> np.ndarray:
    """Converts a value to class indices and shares, (M, 2)."""
    return np.array([[value, 1]], np.float32) if np.ndim(value) == 0 else value


def _highest(scores: np.ndarray) -> list[int]:
    return np.argsort(-scores, kind="stable")[:LISTED].tolist()
