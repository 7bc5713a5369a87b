"""What the probes of patches share: patches of images with their labels.

A patch is a cell of a feature map: `stride` x `stride` pixels of the network's input.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import IGNORE, Batch, Class, Predictions, Targets
from densevit_probes.probe import Encode, Probe

Grid = Literal["image", "input"]


class Patches(NamedTuple):
    """The patches of an image, in rows.

    features: (h * w, C) float32. labels: (h * w, stride^2) uint8, the label of each pixel; IGNORE: none. grid: (h, w).
    size: the image's (height, width) on the network's input, without padding.
    """

    features: Tensor
    labels: Tensor
    grid: tuple[int, int]
    size: tuple[int, int]

    @property
    def labelled(self) -> Tensor:
        """A mask (h * w,) of the patches whose most frequent label is one."""
        return self.labels.mode(dim=1).values != IGNORE

    def to_pixels(self, labels: Tensor) -> Tensor:
        """Labels of all pixels of patches, (h * w, stride^2), as a map of the image on the network's input."""
        side = round(labels.shape[1] ** 0.5)
        canvas = (side * self.grid[0], side * self.grid[1])
        pixels = F.fold(labels.T[None].float(), canvas, side, stride=side)[0, 0]
        return pixels[: self.size[0], : self.size[1]].to(labels.dtype)


class PatchProbe(Probe):
    """A probe that predicts a label map from the patches of the last feature map; metrics as in `SemanticSegmentation`.

    Subclasses implement `fit` and `label_map`.

    grid: "image": predictions are resized to the original image; "input": labels and predictions are compared on the
    network's input, as most papers do.
    """

    task = "segmentation"
    required_targets = ("semantic",)
    evaluator = SemanticSegmentation

    def __init__(self, classes: Sequence[Class], grid: Grid = "image") -> None:
        super().__init__(classes)
        self.grid = grid

    def features(self, encode: Encode, batch: Batch, stride: int) -> list[Patches]:
        """The patches of each image."""
        maps = encode(batch)[-1]
        h, w = maps.shape[-2:]
        images = []
        for map_, target in zip(maps, batch["targets"], strict=True):
            labels = torch.full((h * stride, w * stride), IGNORE, dtype=torch.uint8, device=maps.device)
            height, width = (int(n) for n in target["size"])
            if "semantic" in target:
                labels[:height, :width] = target["semantic"]
            in_patches = F.unfold(labels[None, None].float(), stride, stride=stride)[0].T.to(torch.uint8)
            images.append(Patches(map_.flatten(1).T, in_patches, (h, w), (height, width)))
        return images

    @abstractmethod
    def label_map(self, image: Patches, size: tuple[int, int]) -> Tensor:
        """The label map (*size) uint8 of an image."""

    def predict(self, image: Patches, size: tuple[int, int]) -> Predictions:
        return {"semantic": self.label_map(image, size)}

    def scored(self, image: Patches, truth: Targets) -> tuple[Predictions, Targets]:
        if self.grid == "input":
            return self.predict(image, image.size), {**truth, "semantic": image.to_pixels(image.labels)}
        return super().scored(image, truth)


def labelled(images: Sequence[Patches]) -> tuple[Tensor, Tensor]:
    """Features and labels of the patches whose most frequent label is one. Raises ConfigError if there are none."""
    kept = [image.labelled for image in images]
    features = torch.cat([image.features[mask] for image, mask in zip(images, kept, strict=True)])
    labels = torch.cat([image.labels[mask] for image, mask in zip(images, kept, strict=True)])
    if not len(labels):
        raise ConfigError("no training image has labels. Fix: label some images, or remove the probe.")
    return features, labels


def resized(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """A label map (h, w) uint8, by nearest neighbour."""
    return F.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0].to(torch.uint8)
