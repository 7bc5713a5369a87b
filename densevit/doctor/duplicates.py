"""Finds identical and nearly identical images by their pixels."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

NEAR = 20  # bits of 256 in which the difference hashes of nearly identical images differ at most
_AT_ONCE = 2**25  # comparisons, of 4 bytes each


class Image(NamedTuple):
    """digest: of its pixels. bits: (256,) bool, its difference hash; None if it is flat. split, name: for messages."""

    split: str
    name: str
    digest: bytes
    bits: np.ndarray | None


def identical(images: Sequence[Image]) -> list[list[Image]]:
    """Groups of two or more images with the same pixels."""
    by_digest: dict[bytes, list[Image]] = defaultdict(list)
    for image in images:
        by_digest[image.digest].append(image)
    return [group for group in by_digest.values() if len(group) > 1]


def nearly_identical(images: Sequence[Image], most_bits: int = NEAR) -> Iterator[tuple[Image, Image]]:
    """Pairs with other pixels whose difference hashes differ in at most this many bits. Of identical images, the first
    stands for all."""
    first: dict[bytes, Image] = {}
    for image in images:
        first.setdefault(image.digest, image)
    hashed = [image for image in first.values() if image.bits is not None]
    if not hashed:
        return
    signs = np.stack([image.bits for image in hashed if image.bits is not None]).astype(np.float32) * 2 - 1  # (N, 256)
    rows = max(1, _AT_ONCE // len(signs))
    for start in range(0, len(signs), rows):
        # of two vectors of +-1, the product is 256 minus twice the number of different bits
        products = signs[start : start + rows] @ signs[start:].T
        for row, column in np.argwhere(products >= signs.shape[1] - 2 * most_bits).tolist():
            if column > row:
                yield hashed[start + row], hashed[start + column]
