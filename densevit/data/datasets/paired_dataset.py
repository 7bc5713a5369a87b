"""Base class of data sets with one annotation file per image: label maps and depth maps."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from densevit.channels import Channels
from densevit.data.datasets.file_checks import OnError
from densevit.data.datasets.measured_images import MeasuredImages
from densevit.data.datasets.pair_paths import PairPaths
from densevit.data.datasets.paired_files import find_pairs
from densevit.errors import DataError
from densevit.interfaces import Sample, Size


class PairedDataset(MeasuredImages):
    """Images with one annotation file each, one value per pixel. A subclass reads these files.

    noun: what messages call the annotation file. `image_id` is the image's name. EXIF rotates an image unless only the
    stored image has the size of its annotation file; square images and orientations of 2 to 4 are always rotated.
    """

    noun: str

    def open_pairs(
        self,
        root: Path,
        split: str,
        paths: PairPaths,
        val_share: float | None,
        is_divided: bool,
        limit: int | None,
        outside_paths: bool,
        channels: Channels,
        on_error: OnError,
    ) -> None:
        """Finds the files of a split. Arguments: see `find_pairs`, `part_of` and `open`."""
        name, first = ("train", None) if is_divided else (split, limit)
        pairs = find_pairs(root, name, paths, first, outside_paths, channels, on_error)
        if is_divided:
            names = [os.fsdecode(path) for path in pairs.images]
            pairs = pairs.subset(self.choose(root, names, split, val_share, limit, root, channels))
        self.split, self.pairs, self._on_error = split, pairs, on_error
        self.open(root, [os.fsdecode(path) for path in pairs.images], channels)

    def label_size(self, path: str) -> Size:
        """Returns (h, w) of an annotation file, from its header."""
        raise NotImplementedError

    def target(self, index: int) -> np.ndarray:
        """Reads an annotation file: (H, W), the value of the key in `provides`."""
        raise NotImplementedError

    def grid(self, index: int, stored: Size, upright: Size) -> tuple[Size, bool]:
        """Returns the size of an annotation file, and whether the upright image has this size."""
        path = self.label_path(index)
        return self.label_grid(index, self.noun, path, self.label_size(path), stored, upright)

    def other_files(self, index: int) -> list[str]:
        """Returns the annotation file."""
        return [self.label_path(index)]

    def label_path(self, index: int) -> str:
        """Returns the path of an image's annotation file."""
        return os.path.join(self.root, os.fsdecode(self.pairs.labels[index]))

    def __getitem__(self, index: int) -> Sample:
        """Returns the sample with its only target, (H, W)."""
        image, target = self.image(index), self.target(index)
        if target.shape != self.size(index):
            raise DataError(
                f"{self.label_path(index)} has changed since the start: {target.shape} pixels, not {self.size(index)}."
            )
        [key] = self.provides
        name = os.fsdecode(self.pairs.names[index])
        return {"image": image, "targets": {"image_id": name, key: torch.from_numpy(target)}}


def load_preset(folder: Path, name: str) -> dict[str, Any]:
    """Returns the options in folder/NAME.yaml. Raises DataError for an unknown name."""
    file = folder / f"{name}.yaml"
    if not file.is_file():
        presets = ", ".join(sorted(other.stem for other in folder.glob("*.yaml")))
        raise DataError(f"data.preset: there is no {name!r}. Presets: {presets}.")
    return yaml.load(file.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
