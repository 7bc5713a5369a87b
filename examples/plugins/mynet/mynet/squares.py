"""A custom data set."""

import numpy as np
import torch

import densevit
from densevit.interfaces import Sample


class Squares(densevit.Dataset):
    """Grey images with up to four white squares."""

    provides = ("boxes", "labels")

    def __init__(self, split: str, side: int = 64, length: int = 8) -> None:
        self.classes = {"counting": ()}
        self.split, self.side, self.length = split, side, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.split == "val", index])
        corners = rng.integers(0, self.side - 8, (rng.integers(0, 5), 2))
        image = torch.full((3, self.side, self.side), 100, dtype=torch.uint8)
        for x, y in corners:
            image[:, y : y + 8, x : x + 8] = 255
        boxes = torch.tensor([[x, y, x + 8, y + 8] for x, y in corners], dtype=torch.float32).reshape(-1, 4)
        targets = {
            "image_id": index,
            "boxes": boxes,
            "labels": torch.zeros(len(boxes), dtype=torch.int64),
            "area": torch.full((len(boxes),), 64.0),
            "iscrowd": torch.zeros(len(boxes), dtype=torch.bool),
        }
        return {"image": image, "targets": targets}
