"""MixUp and CutMix: mixes each training image, and its labels, with its predecessor in the batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.data.transforms.resized_crop import seeded
from densevit.data.transforms.sample_augmentation import placed
from densevit.data.transforms.sample_resizing import Types, as_numpy, as_tensor, new_pixels
from densevit.errors import ConfigError, DataError
from densevit.interfaces import Sample, Size
from densevit.layers.missing_pixels import resampled


@runtime_checkable
class SupportsMix(Protocol):
    """A target type that can be used with `data.mixup` and `data.cutmix`."""

    def mix(self, value: Any, other: Any, share: float) -> Any:
        """Returns the value of a mixture of two images.

        value, other: the values of the first and the second image. share: the first image's share, from 0 to 1.
        """


@dataclass(frozen=True)
class ImageMixing:
    """Mixes the images of a batch by torchvision's MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019).

    mixup, cutmix: alpha of the distribution Beta(alpha, alpha) of the first image's share; None: not used. If both are
    set, one of the two methods is drawn for each batch. Only MixUp mixes images with objects, and keeps the objects of
    both. A pixel that is missing in one image is taken from the other. channels: the images' channels.
    """

    mixup: float | None = None
    cutmix: float | None = None
    channels: Channels = RGB

    def check(self, keys: Sequence[str], types: Types) -> None:
        """Raises ConfigError if a target key's values cannot be mixed."""
        for key in keys:
            if not isinstance(types[key], SupportsMix) and not types[key].truth_only:
                raise ConfigError(
                    f"data.mixup and data.cutmix mix images and their labels, but the data set labels {key}, which "
                    "cannot be mixed. Fix: leave them out."
                )
            if self.cutmix is not None and types[key].per == "object":
                raise ConfigError(
                    f"data.cutmix mixes images and their classes, but the data set labels {key} of objects, a part of "
                    "which it would cut out. Fix: leave it out, or use data.mosaic or data.mixup."
                )

    def __call__(self, samples: Sequence[Sample], seed: Sequence[int], types: Types) -> list[Sample]:
        """Returns the mixed samples; the result depends only on the samples and the seed.

        Images of different sizes are first padded with `new_pixels` to the largest height and width of the batch; the
        padding becomes part of the images.
        """
        canvas = (max(s["image"].shape[1] for s in samples), max(s["image"].shape[2] for s in samples))
        if any(not canvas == s["targets"]["size"] == s["image"].shape[1:] for s in samples):
            samples = [_padded(sample, canvas, types, self.channels) for sample in samples]
        rng = np.random.default_rng([*seed, len(samples)])
        images, shares = self._mixed(torch.stack([sample["image"] for sample in samples]), rng)
        return [
            {"image": image, "targets": self._targets(samples[i], samples[i - 1], share, types)}
            for i, (image, share) in enumerate(zip(images, shares, strict=True))
        ]

    def _mixed(self, images: Tensor, rng: np.random.Generator) -> tuple[Tensor, list[float]]:
        """Returns the mixed images (B, C, H, W), and the share of each image in its mixture.

        With the positions 0 ... B-1 as labels, torchvision's mixed labels contain the shares.
        """
        from torchvision.transforms import v2

        count = len(images)
        transforms = [
            transform_class(alpha=alpha, num_classes=count)
            for transform_class, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if alpha is not None
        ]
        transform = transforms[int(rng.integers(len(transforms)))]
        seed, shares = int(rng.integers(2**63)), torch.empty(0)

        def mix(x: Tensor) -> Tensor:
            nonlocal shares
            with seeded(seed):
                mixed, shares = transform(x.float(), torch.arange(count))
            return mixed if x.is_floating_point() else mixed.round_().to(x.dtype)

        return resampled(images, mix), shares.diagonal().tolist()

    @staticmethod
    def _targets(sample: Sample, other: Sample, share: float, types: Types) -> dict[str, object]:
        """Mixes the targets of a sample with those of `other`. share: the share of `sample` in the mixture. Raises
        DataError if `other` lacks a target key of `sample`."""
        targets = dict(sample["targets"])
        for key in [key for key in targets if key in types]:
            if key not in other["targets"]:
                raise DataError(
                    f"image {other['targets'].get('image_id')!r} has no {key}, and cannot be mixed with one that has "
                    "it. Fix: leave data.mixup and data.cutmix out."
                )
            target_type = types[key]
            if not isinstance(target_type, SupportsMix):
                raise NotImplementedError(f"{type(target_type).__name__} does not implement mix().")
            first, second = as_numpy(targets[key]), as_numpy(other["targets"][key])
            targets[key] = as_tensor(target_type.mix(first, second, share))
        return targets


def _padded(sample: Sample, canvas: Size, types: Types, channels: Channels) -> Sample:
    """Pads a sample with `new_pixels` at the bottom and right."""
    targets = sample["targets"] | {"size": canvas}
    for key in [key for key in targets if key in types and types[key].per == "object"]:
        value = types[key].crop(as_numpy(targets[key]), (0, 0, *canvas), sample["targets"]["size"])
        targets[key] = as_tensor(types[key].clip(value, canvas))
    height, width = sample["targets"]["size"]
    image = sample["image"][:, :height, :width].numpy()
    image = placed(image, (0, 0, height, width), canvas, new_pixels(image, channels))
    return {"image": torch.from_numpy(image), "targets": targets}
