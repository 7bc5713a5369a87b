"""A data set whose images have five channels of 16 bits."""

import cv2
import numpy as np
import torch

from densevit.interfaces import Channels, Class, Dataset, Sample

_COLORS = {"soil": (120, 80, 40), "wheat": (220, 200, 60), "maize": (60, 160, 60)}
CROPS = tuple(Class(name, i, color, thing=False) for i, (name, color) in enumerate(_COLORS.items()))
NEAR_INFRARED = (2500, 3600, 5200)  # of each class; the other channels are alike in both crops


class Fields(Dataset):
    """Fields of two crops, `semantic`.

    size: height and width of the images. length: the number of training images; a quarter for validation.
    """

    def __init__(self, split: str, size: tuple[int, int] = (96, 128), length: int = 64) -> None:
        self.classes = {"segmentation": CROPS}
        self.provides = ("semantic",)
        self.channels = Channels(("blue", "green", "red", "nir", "swir"), "uint16", (), display=("nir", "red", "green"))
        self._size, self._length = size, length if split == "train" else max(1, length // 4)
        self._seed = 0 if split == "train" else 1

    def __len__(self) -> int:
        return self._length

    def sizes(self) -> np.ndarray:
        return np.tile(self._size, (self._length, 1))

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self._seed, index])
        labels = cv2.resize(rng.integers(0, 3, (3, 4), np.uint8), self._size[::-1], interpolation=cv2.INTER_NEAREST)
        image = rng.normal(np.where(labels == 0, 2600, 1800), 150, (5, *self._size))
        image[3] = rng.normal(np.array(NEAR_INFRARED)[labels], 300)
        pixels = torch.from_numpy(image.clip(0, 10000).astype(np.uint16))
        return {"image": pixels, "targets": {"image_id": index, "semantic": torch.from_numpy(labels)}}
