"""Retrieval of patches from a memory, as in Hummingbird (Balažević et al. 2023, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import IGNORE, Class
from densevit_probes.feature_classifiers import most_similar
from densevit_probes.patches import Grid, Patches, PatchProbe


class PatchRetrieval(PatchProbe):
    """Label distributions of the k most similar training patches, weighted by the softmax of their cosine similarities.

    The distributions of an image's patches are upsampled bilinearly; each pixel has the class with the highest share.
    Pixels without label do not count in a distribution.

    k: number of neighbours. temperature: divides the similarities. memory: number of training patches to keep, equally
    many per image; those whose classes are rare in their image are more likely. None: all. seed: the seed of this
    choice.
    """

    def __init__(
        self,
        classes: Sequence[Class],
        k: int = 30,
        temperature: float = 0.02,
        memory: int | None = None,
        seed: int = 0,
        grid: Grid = "image",
    ) -> None:
        super().__init__(classes, grid)
        if k < 1 or not temperature > 0 or (memory is not None and memory < 1):
            raise ConfigError(
                f"k is {k}, temperature {temperature:g} and memory {memory}; at least 1, above 0, and null or at least "
                "1 are expected."
            )
        self.k, self.temperature, self.memory, self.seed = k, temperature, memory, seed

    def fit(self, images: Sequence[Patches]) -> None:
        """Fills the memory with features and label shares of the labelled training patches."""
        generator = torch.Generator().manual_seed(self.seed)
        keys, values = [], []
        for image in images:
            counts = image.features.new_zeros(len(image.labels), IGNORE + 1)
            labels = image.labels.long()
            pixels = counts.scatter_add(1, labels, counts.new_ones(labels.shape))[:, : len(self.classes)]  # (N, K)
            kept = pixels.sum(1) > 0
            if self.memory is not None:
                kept &= self._drawn(pixels, max(1, self.memory // len(images)), generator)
            keys.append(F.normalize(image.features[kept], dim=1))
            values.append(pixels[kept] / pixels[kept].sum(1, keepdim=True))
        self._keys, self._values = torch.cat(keys), torch.cat(values)
        if not len(self._keys):
            raise ConfigError("no training image has labels. Fix: label some images, or remove the probe.")

    @staticmethod
    def _drawn(pixels: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """A mask of `count` patches: the smallest products of a uniform number and the sum, over a patch's classes, of
        the number of patches with this class."""
        present = (pixels > 0).float()
        frequency = present @ present.sum(0)
        frequency = torch.where(frequency > 0, frequency, torch.inf)
        order = (frequency * torch.rand(len(pixels), generator=generator).to(pixels.device)).argsort()
        mask = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
        mask[order[:count]] = True
        return mask

    def distributions(self, features: Tensor) -> Tensor:
        """Shares of the classes in patches, (N, K). features: (N, C)."""
        similarity, index = most_similar(F.normalize(features, dim=1), self._keys, self.k)
        weights = (similarity / self.temperature).softmax(1)
        return (weights[:, None] @ self._values[index])[:, 0]

    def label_map(self, image: Patches, size: tuple[int, int]) -> Tensor:
        shares = self.distributions(image.features).T.unflatten(1, image.grid)[None]
        stride = round(image.labels.shape[1] ** 0.5)
        shares = F.interpolate(shares, size=[stride * n for n in image.grid], mode="bilinear")
        shares = shares[..., : image.size[0], : image.size[1]]
        if size != image.size:
            shares = F.interpolate(shares, size=size, mode="bilinear")
        return shares[0].argmax(0).to(torch.uint8)
