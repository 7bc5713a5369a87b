"""Finds identical images, and pairs of nearly identical images."""

from collections.abc import Iterator, Sequence

import numpy as np

from densevit.data.duplicate_images import NEAR, HashedImage, close_pairs
from densevit.grouping import grouped


def identical(images: Sequence[HashedImage]) -> list[list[HashedImage]]:
    """Returns the groups of two or more images with the same pixels."""
    return [group for group in grouped((image.digest, image) for image in images).values() if len(group) > 1]


def nearly_identical(images: Sequence[HashedImage]) -> Iterator[tuple[HashedImage, HashedImage]]:
    """Yields pairs of different images whose difference hashes differ in at most `NEAR` bits. Compares only the first
    of identical images."""
    first = [group[0] for group in grouped((image.digest, image) for image in images).values()]
    hashed = [image for image in first if image.bits is not None]
    if not hashed:
        return
    for pairs in close_pairs(np.stack([image.bits for image in hashed if image.bits is not None]), NEAR):
        for row, column in pairs.tolist():
            yield hashed[row], hashed[column]
