"""The annotations of a json as flat numpy arrays: what boxes and panoptic segments have in common."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from densevit.interfaces import Class

Images = TypeVar("Images", bound="AnnotatedImages")


@dataclass(frozen=True)
class AnnotatedImages:
    """N images, and M objects sorted by image: rows `first[i]` up to `first[i + 1]` are the objects of image i.

    labelled: False if the file has no `annotations`, as in test sets. ids: the objects' ids in the file.
    Subclasses add arrays, and list them in `per_image` or `per_object`.
    """

    file: Path
    classes: tuple[Class, ...]
    labelled: bool
    image_ids: np.ndarray  # (N,) int64, or text
    first: np.ndarray  # (N + 1,) int64
    ids: np.ndarray  # (M,) int64 or int32, or text
    labels: np.ndarray  # (M,) int32, class indices
    iscrowd: np.ndarray  # (M,) bool

    per_image: ClassVar[tuple[str, ...]] = ("image_ids",)
    per_object: ClassVar[tuple[str, ...]] = ("ids", "labels", "iscrowd")

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def images(self) -> np.ndarray:
        """(M,) index of each object's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def rows(self, index: int) -> slice:
        """Returns the rows of an image's objects."""
        return slice(int(self.first[index]), int(self.first[index + 1]))

    def counts(self, chosen: np.ndarray) -> np.ndarray:
        """Returns (N,) the number of chosen objects in each image. chosen: (M,) bool."""
        return np.bincount(self.images[chosen], minlength=len(self))

    def image_classes(self, chosen: np.ndarray) -> np.ndarray:
        """Returns (P, 2) image and class of each chosen object. chosen: (M,) bool."""
        return np.stack([self.images, self.labels], axis=1)[chosen]

    def subset(self: Images, chosen: np.ndarray) -> Images:
        """Returns the images for which `chosen`, (N,) bool, is True."""
        objects = chosen[self.images]
        first = np.concatenate([[0], np.cumsum(np.diff(self.first)[chosen])]).astype(np.int64)
        columns = {name: getattr(self, name)[chosen] for name in self.per_image}
        columns |= {name: getattr(self, name)[objects] for name in self.per_object}
        return replace(self, first=first, **columns)
