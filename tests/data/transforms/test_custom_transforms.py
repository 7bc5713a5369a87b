"""Transforms that a config names as module:Class."""

import numpy as np
import torch

from densevit.config import DataSection
from densevit.data.transforms.transform_builder import build_transforms
from densevit.interfaces import CropAndSize, Size, Transforms

NAME = f"{__name__}:Quarter"


class Quarter(Transforms):
    """Trains on a quarter of each image, inverted; evaluates on whole images."""

    def __init__(self, image_size: int | Size | None, corner: str = "top left", inverted: bool = True) -> None:
        import albumentations as A

        self.size = image_size if isinstance(image_size, tuple) else (image_size or 32,) * 2
        self.bottom, self.right = "bottom" in corner, "right" in corner
        self.color_augmentation = [A.InvertImg(p=1)] if inverted else "none"

    def evaluation_size(self, height: int, width: int) -> Size:
        return self.size

    def training_crop(self, height, width, rng, semantic=None) -> CropAndSize:
        top, left = self.bottom * height // 2, self.right * width // 2
        return CropAndSize((top, left, top + height // 2, left + width // 2), self.size)


def test_custom_transforms_crop_and_recolor():
    section = DataSection(name="scenes", image_size=(20, 30), transforms={"name": NAME, "corner": "bottom right"})
    train, evaluation = build_transforms(section)
    image = torch.full((3, 40, 60), 200, dtype=torch.uint8)
    semantic = torch.zeros(40, 60, dtype=torch.uint8)
    semantic[20:] = 2
    semantic[:, :30] += 1
    sample = {"image": image, "targets": {"image_id": 1, "semantic": semantic}}
    found = train(sample, np.random.default_rng(0))
    assert found["image"].shape == (3, 20, 30) and (found["image"] == 55).all()
    assert set(found["targets"]["semantic"].unique().tolist()) <= {2, 3}  # the lower half
    assert evaluation(sample)["image"].shape == (3, 20, 30)
