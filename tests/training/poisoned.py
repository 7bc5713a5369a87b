"""A data set of plain grey images and a backbone in which one of them gives NaN, as plugins."""

import torch
from torch import Tensor, nn

import densevit
from densevit.interfaces import Class, Sample
from tests.counted_dataset import CountedDataset

SIDE = 16
CLASSES = (Class("left", 1, (255, 0, 0)), Class("right", 2, (0, 255, 0)))


class Greys(CountedDataset):
    """Image i is grey, of value 10 * i + 10; its left half is one class, its right half another. Two validate."""

    provides = ("semantic",)

    def __init__(self, split: str, length: int = 8) -> None:
        self.classes = {"segmentation": CLASSES}
        self.split, self.length = split, length if split == "train" else 2

    def __getitem__(self, index: int) -> Sample:
        image = torch.full((3, SIDE, SIDE), 10 * index + 10, dtype=torch.uint8)
        semantic = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
        semantic[:, SIDE // 2 :] = 1
        return {"image": image, "targets": {"image_id": f"grey{index}", "semantic": semantic}}


class Poison(nn.Module):
    """The identity, but NaN where an image is marked, in the output or in its gradient."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def forward(self, x: Tensor, marked: Tensor) -> Tensor:
        if not self.training or self.where == "nowhere":
            return x
        marked = marked[:, None, None, None]
        if self.where == "output":
            return torch.where(marked, torch.nan, x)
        return NanGradient.apply(x, marked)


class NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, marked):
        ctx.save_for_backward(marked)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(ctx.saved_tensors[0], torch.nan, gradient), None


class Poisoned(densevit.Backbone):
    """Two convolutions with batch norm, and a `Poison` between them for the image of this index."""

    channels, strides = (8,), (4,)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, image: int = 3, where: str = "output") -> None:
        super().__init__()
        self.level = (10 * image + 10) / 255
        self.first = nn.Conv2d(3, 8, 2, stride=2)
        self.poison = Poison(where)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 2, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        marked = (images.amax((1, 2, 3)) - self.level).abs() < 1e-3
        x = self.poison(self.first(images), marked)
        return [self.second(self.norm(x).relu())]
