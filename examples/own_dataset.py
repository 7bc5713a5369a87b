"""Trains on a custom data set: a class, named in the config as module:Class.

cd examples && python own_dataset.py
densevit train scenes/setr_swin data.name=own_dataset:Disks data.image_size=96      # the same from the command line
"""

import numpy as np
import torch

import densevit
from densevit.errors import DataError
from densevit.interfaces import Sample


class Disks(densevit.Dataset):
    """Disks on noise, with label maps. A real data set reads files here and returns their pixels without resizing."""

    provides = ("semantic",)

    def __init__(self, split: str, side: int = 96, length: int = 1000) -> None:
        if split not in ("train", "val"):
            raise DataError(f"disks has no split {split!r}, only train, val.")
        self.split, self.side, self.length = split, side, length
        things = (densevit.Class("disk", 1, (220, 60, 60)), densevit.Class("ground", 0, (90, 90, 90), thing=False))
        self.classes = {"segmentation": things}

    def __len__(self) -> int:
        return self.length if self.split == "train" else self.length // 10

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.split == "train", index])  # each index always gives the same image
        y, x = np.mgrid[: self.side, : self.side]
        centre, radius = rng.uniform(0.3, 0.7, 2) * self.side, rng.uniform(0.1, 0.3) * self.side
        disk = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        pixels = rng.integers(0, 120, (3, self.side, self.side), np.uint8) + 100 * disk.astype(np.uint8)
        labels = np.where(disk, 0, 1).astype(np.uint8)  # indices into `classes`
        targets = {"image_id": index, "semantic": torch.from_numpy(labels)}
        return {"image": torch.from_numpy(pixels), "targets": targets}


def main(*overrides: str) -> densevit.Run:
    run = densevit.fit("scenes/setr_swin", overrides=["data.name=own_dataset:Disks", "data.image_size=96", *overrides])
    print(run.metrics)
    return run


if __name__ == "__main__":
    main()
