"""Predicted maps as files that other tools read, in a folder a kind: semantic/NAME.png, depth/NAME.png and .npy.

semantic: a PNG of the picture's size whose values are the classes' file ids, so that it is a label file itself; the
    classes' colours are its palette. Where ids go beyond 255, which a palette does not, 16-bit grey without colours.
depth: metres as float32 in an NPY; and in steps of 1/256 m as 16-bit grey PNG (KITTI's format), 0 = unknown. A map
    with depths that this cannot hold, of 256 m and more, has the NPY alone.
inverse_depth: relative, so of no unit; an NPY of float32.
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

STEPS_A_METRE = 256
MOST = 2**16 - 1  # of a 16-bit PNG


class MapFiles:
    """The maps of many pictures under one folder, written as they come; with several heads, each has a folder in it.

    classes: of each head. Processes that share the pictures may share the folder.
    """

    def __init__(self, folder: Path, classes: Mapping[str, Sequence[Class]]) -> None:
        self.folder, self.classes = folder, classes

    def folder_of(self, head: str) -> Path:
        """Where a head's files go."""
        return self.folder / head if len(self.classes) > 1 else self.folder

    def add(self, head: str, name: str, predictions: Predictions) -> None:
        """Writes what a head's predictions for one picture hold of FORMATS, as folder_of(head)/KIND/name."""
        for kind, write in FORMATS.items():
            if kind in predictions:
                path = self.folder_of(head) / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, _array(predictions[kind]), self.classes[head])

    def add_image(self, head: str, image_id: int | str, predictions: Predictions) -> None:
        """The same by the image's id in its data set. Ids that a file system takes for one get names of their own."""
        name = file_name(image_id)
        paths = [self.folder_of(head) / kind / name for kind in FORMATS if kind in predictions]
        if any(_file(path, ending).exists() for path in paths for ending in (".png", ".npy")):
            name += f"-{checksum(image_id)}"
        self.add(head, name, predictions)


def write_semantic(path: Path, labels: np.ndarray, classes: Sequence[Class]) -> None:
    """Writes path.png. labels: (H, W), class indices. Raises DataError for one that is no class."""
    ids = _file_ids(classes)
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < len(ids):
        raise DataError(
            f"{path.name}: `semantic` of its prediction reaches from {labels.min()} to {labels.max()}; "
            f"0 ... {len(ids) - 1} is expected, for {len(ids)} classes."
        )
    picture = Image.fromarray(ids[labels])
    if ids.dtype == np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        palette[ids] = [c.color for c in classes]
        picture.putpalette(palette.tobytes())
    picture.save(_file(path, ".png"))


def write_depth(path: Path, depth: np.ndarray, classes: Sequence[Class]) -> None:
    """Writes path.npy and, where all of it fits, path.png. depth: (H, W) float32, metres, 0 = unknown."""
    depth = depth.astype(np.float32, copy=False)
    np.save(_file(path, ".npy"), depth)
    steps = np.rint(depth * STEPS_A_METRE)
    if not ((depth >= 0) & (steps <= MOST)).all():  # nan neither
        warnings.warn(
            f"Depth that is negative, not finite or beyond {MOST / STEPS_A_METRE:.3f} m does not fit a 16-bit PNG: "
            "maps with such depth are written as NPY only.",
            stacklevel=2,
        )
        return
    steps[(depth > 0) & (steps == 0)] = 1  # known, however near
    Image.fromarray(steps.astype(np.uint16)).save(_file(path, ".png"))


def write_inverse_depth(path: Path, inverse_depth: np.ndarray, classes: Sequence[Class]) -> None:
    """Writes path.npy. inverse_depth: (H, W) float32."""
    np.save(_file(path, ".npy"), inverse_depth.astype(np.float32, copy=False))


FORMATS: dict[str, Callable[[Path, np.ndarray, Sequence[Class]], None]] = {
    "semantic": write_semantic,
    "depth": write_depth,
    "inverse_depth": write_inverse_depth,
}
"""What writes each key of predictions that is a map; it gets the path without its ending."""


def _file(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)  # `with_suffix` would cut "a.b" short


def _file_ids(classes: Sequence[Class]) -> np.ndarray:
    """(K,) uint8, or uint16 where that is needed. Raises DataError where label files could not hold these ids."""
    ids: dict[int, str] = {}
    for c in classes:
        if c.file_id in ids:
            raise DataError(
                f"The classes {ids[c.file_id]!r} and {c.name!r} have the same file id, {c.file_id}: a label file could "
                "not tell one from the other. Give each class an id of its own in the data set."
            )
        if not 0 <= c.file_id <= MOST:
            raise DataError(f"Class {c.name!r} has the file id {c.file_id}; label files hold 0 to {MOST}.")
        ids[c.file_id] = c.name
    return np.array(list(ids), np.uint8 if max(ids) <= 255 else np.uint16)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    return np.asarray(values)
