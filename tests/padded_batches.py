"""Batches of images without labels."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from densevit.data.loading.batch_sampler import collate


def padded(images: Sequence[Tensor], ids: str = "{}") -> dict[str, Any]:
    """Images (3, H, W) uint8, padded to one size. ids: of the images, from their numbers."""
    sizes = [tuple(image.shape[1:]) for image in images]
    targets = [{"image_id": ids.format(i), "size": size, "original_size": size} for i, size in enumerate(sizes)]
    return dict(collate([{"image": x, "targets": target} for x, target in zip(images, targets, strict=True)]))
