"""Writes predicted maps as files, in one folder per kind: semantic/NAME.png, depth/NAME.png and depth/NAME.npy.

semantic: a palette PNG of the image's size with the classes' file ids as values, which can be used as a label map. With
    ids above 255, which a palette cannot hold, a 16-bit grey PNG.
depth: float32 metres as NPY, and a 16-bit grey PNG in steps of 1/256 m (KITTI's format), 0 = unknown. Maps with depths
    that the PNG cannot hold, of 256 m and more, are written as NPY only.
inverse_depth: float32 relative inverse depth as NPY, without a unit.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from densevit.data.image_names import checksum, file_name
from densevit.errors import DataError
from densevit.interfaces import Class, Predictions

STEPS_PER_METRE = 256
MAX_PNG_VALUE = 2**16 - 1


class MapFiles:
    """Writes the maps of many images to one folder; with several heads, to one subfolder per head.

    classes: the classes of each head. Several processes may write to the same folder.
    """

    def __init__(self, folder: Path, classes: Mapping[str, Sequence[Class]]) -> None:
        self.folder, self.classes = folder, classes

    def folder_of(self, head: str) -> Path:
        """The folder of a head's files."""
        return self.folder / head if len(self.classes) > 1 else self.folder

    def add(self, head: str, name: str, predictions: Predictions) -> None:
        """Writes all maps of FORMATS in a head's predictions for one image, as folder_of(head)/KIND/name."""
        for kind, write in FORMATS.items():
            if kind in predictions:
                path = self.folder_of(head) / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, _array(predictions[kind]), self.classes[head])

    def add_image(self, head: str, image_id: int | str, predictions: Predictions) -> None:
        """Writes the maps under `file_name(image_id)`, with a checksum of the id appended if that name is taken."""
        name = file_name(image_id)
        paths = [self.folder_of(head) / kind / name for kind in FORMATS if kind in predictions]
        if any(_file(path, suffix).exists() for path in paths for suffix in (".png", ".npy")):
            name += f"-{checksum(image_id)}"
        self.add(head, name, predictions)


def write_semantic(path: Path, labels: np.ndarray, classes: Sequence[Class]) -> None:
    """Writes path.png. labels: (H, W) class indices. Raises DataError for an index out of range."""
    ids = _file_ids(classes)
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < len(ids):
        raise DataError(
            f"{path.name}: `semantic` of its prediction ranges from {labels.min()} to {labels.max()}; "
            f"0 ... {len(ids) - 1} is expected, for {len(ids)} classes."
        )
    image = Image.fromarray(ids[labels])
    if ids.dtype == np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        palette[ids] = [c.color for c in classes]
        image.putpalette(palette.tobytes())
    image.save(_file(path, ".png"))


def write_depth(path: Path, depth: np.ndarray, classes: Sequence[Class]) -> None:
    """Writes path.npy and, if all values fit, path.png. depth: (H, W) float32 metres, 0 = unknown."""
    depth = depth.astype(np.float32, copy=False)
    np.save(_file(path, ".npy"), depth)
    steps = np.rint(depth * STEPS_PER_METRE)
    if not ((depth >= 0) & (steps <= MAX_PNG_VALUE)).all():  # False for nan, too
        warnings.warn(
            "Depth that is negative, not finite or beyond "
            f"{MAX_PNG_VALUE / STEPS_PER_METRE:.3f} m does not fit a 16-bit PNG: such maps are written as NPY only.",
            stacklevel=2,
        )
        return
    steps[(depth > 0) & (steps == 0)] = 1  # stays known after rounding
    Image.fromarray(steps.astype(np.uint16)).save(_file(path, ".png"))


def write_inverse_depth(path: Path, inverse_depth: np.ndarray, classes: Sequence[Class]) -> None:
    """Writes path.npy. inverse_depth: (H, W) float32."""
    np.save(_file(path, ".npy"), inverse_depth.astype(np.float32, copy=False))


FORMATS: dict[str, Callable[[Path, np.ndarray, Sequence[Class]], None]] = {
    "semantic": write_semantic,
    "depth": write_depth,
    "inverse_depth": write_inverse_depth,
}
"""The writer of each map in predictions; it gets the path without suffix."""


def _file(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)  # `with_suffix` would replace the ".b" of "a.b"


def _file_ids(classes: Sequence[Class]) -> np.ndarray:
    """(K,) uint8, or uint16 if necessary. Raises DataError if a label map cannot hold these ids."""
    ids: dict[int, str] = {}
    for c in classes:
        if c.file_id in ids:
            raise DataError(
                f"The classes {ids[c.file_id]!r} and {c.name!r} have the same file id, {c.file_id}, and a label map "
                "could not distinguish them. Fix: give each class its own id in the data set."
            )
        if not 0 <= c.file_id <= MAX_PNG_VALUE:
            raise DataError(f"Class {c.name!r} has the file id {c.file_id}; label maps hold 0 to {MAX_PNG_VALUE}.")
        ids[c.file_id] = c.name
    return np.array(list(ids), np.uint8 if max(ids) <= 255 else np.uint16)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    return np.asarray(values)
