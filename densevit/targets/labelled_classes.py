"""The target type of the classes that are labelled in an image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from densevit.errors import DataError
from densevit.interfaces import Class, Size, Targets, TargetType


class LabelledClasses(TargetType):
    """List of the names of the classes whose objects are all labelled in an image, also where it has none.

    Without the key, all classes are. An image that is made of several has the classes that are labelled in all of them.
    """

    def check(self, value: Any, size: Size) -> None:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise DataError(f"is {value!r}; expected a list of class names.")

    def paste(self, value: list[str], pasted: list[str], covered: np.ndarray) -> list[str]:
        return [name for name in value if name in pasted]

    def mix(self, value: list[str], other: list[str], share: float) -> list[str]:
        return [name for name in value if name in other]


def by_class(targets: list[Targets], classes: Sequence[Class]) -> list[Targets]:
    """The targets of a head: `labelled` is (K,) bool of its classes instead of names."""

    def row(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        names = set(value)  # LVIS has 1,203 classes
        return torch.tensor([c.name in names for c in classes])

    return [{**target, "labelled": row(target["labelled"])} if "labelled" in target else target for target in targets]
