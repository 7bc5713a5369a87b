"""MixUp and CutMix: each training image is mixed with its predecessor in the batch, and so are their labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from densevit.data.transforms.resized_crop import seeded
from densevit.data.transforms.resizing import Types, as_array
from densevit.errors import ConfigError, DataError
from densevit.interfaces import Sample, TargetType


@dataclass(frozen=True)
class ImageMixing:
    """Mixes the images of a batch by torchvision's MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019).

    mixup, cutmix: alpha of the beta distribution of the images' shares; None: not used. If both are given, a batch
    draws one of them.
    """

    mixup: float | None = None
    cutmix: float | None = None

    def check(self, keys: Sequence[str], types: Types) -> None:
        """Raises ConfigError if a target key's values cannot be mixed."""
        for key in keys:
            if type(types[key]).mix is TargetType.mix:
                raise ConfigError(
                    f"data.mixup and data.cutmix mix images and their classes, but the data set labels {key}, which "
                    "cannot be mixed. Fix: leave them out."
                )

    def __call__(self, samples: Sequence[Sample], seed: Sequence[int], types: Types) -> list[Sample]:
        """Returns the mixed samples; the result depends on the samples and the seed only.

        Raises DataError for images of several sizes.
        """
        sizes = {tuple(sample["image"].shape) for sample in samples}
        if len(sizes) > 1:
            first, second, *_ = sorted((height, width) for _, height, width in sizes)
            raise DataError(
                f"data.mixup and data.cutmix mix images of one size, but a batch has images of {first[0]} x {first[1]} "
                f"and {second[0]} x {second[1]}. Fix: set data.recipe: resized_crop."
            )
        rng = np.random.default_rng([*seed, len(samples)])
        images, shares = self._mixed(torch.stack([sample["image"] for sample in samples]), rng)
        return [
            {"image": image, "targets": self._targets(samples[i], samples[i - 1], share, types)}
            for i, (image, share) in enumerate(zip(images, shares, strict=True))
        ]

    def _mixed(self, images: Tensor, rng: np.random.Generator) -> tuple[Tensor, list[float]]:
        """The mixed images (B, 3, H, W) uint8, and each image's own share.

        With the positions 0 ... B-1 as labels, torchvision's mixed labels show the shares.
        """
        from torchvision.transforms import v2

        count = len(images)
        kinds = [
            kind(alpha=alpha, num_classes=count)
            for kind, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if alpha is not None
        ]
        kind = kinds[int(rng.integers(len(kinds)))]
        with seeded(int(rng.integers(2**63))):
            mixed, labels = kind(images.float(), torch.arange(count))
        return mixed.round_().to(torch.uint8), labels.diagonal().tolist()

    @staticmethod
    def _targets(sample: Sample, other: Sample, share: float, types: Types) -> dict[str, object]:
        """The targets of a sample, mixed with those of another where both are labelled."""
        targets = dict(sample["targets"])
        for key in [key for key in targets if key in types]:
            if key not in other["targets"]:
                raise DataError(
                    f"image {other['targets'].get('image_id')!r} has no {key}, and cannot be mixed with one that has "
                    "it. Fix: leave data.mixup and data.cutmix out."
                )
            first, second = as_array(targets[key]), as_array(other["targets"][key])
            targets[key] = torch.from_numpy(types[key].mix(first, second, share))
        return targets
