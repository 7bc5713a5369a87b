"""Groups identical and nearly identical images by their pixels."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

NEAR = 20  # maximum Hamming distance of the difference hashes (256 bits) of nearly identical images
_AT_ONCE = 2**25  # comparisons in one block, of 4 bytes each
_SIDE = 16  # of the difference hash: 16 x 16 bits
_LEAST_SHARE = 0.2  # minimum share of ones, and of zeros, in a hash; in natural images about half
_FLAT = 8  # grey levels; an image with fewer has no meaningful difference hash


class HashedImage(NamedTuple):
    """Hashes of an image.

    split, name: the image's split and file name, for messages. digest: the hash of the pixels. bits: (256,) bool, the
    difference hash; None if the image is flat.
    """

    split: str
    name: str
    digest: bytes
    bits: np.ndarray | None


def duplicate_groups(images: Sequence[HashedImage]) -> tuple[np.ndarray, np.ndarray]:
    """Returns two group numbers for each image, (N,) each: by identical, and by identical or nearly identical images.

    Near identity is transitive here: if A is nearly identical to B and B to C, all three are in one group.
    """
    numbers: dict[bytes, int] = {}
    identical_groups = np.array([numbers.setdefault(image.digest, len(numbers)) for image in images], np.int64)
    first = {image.digest: image for image in reversed(images)}
    hashed = np.array([numbers[digest] for digest, image in first.items() if image.bits is not None], np.int64)
    joined = np.arange(len(numbers))  # the group of each group of identical images
    if len(hashed):
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        for pairs in close_pairs(np.stack([image.bits for image in first.values() if image.bits is not None]), NEAR):
            starts = np.concatenate([joined[hashed[pairs[:, 0]]], joined])
            ends = np.concatenate([joined[hashed[pairs[:, 1]]], joined])
            graph = coo_array((np.ones(len(starts), bool), (starts, ends)), shape=(len(numbers), len(numbers)))
            joined = connected_components(graph, directed=False)[1][joined]
    return identical_groups, joined[identical_groups]


def close_pairs(bits: np.ndarray, most_bits: int) -> Iterator[np.ndarray]:
    """Yields arrays (P, 2) of pairs of rows of `bits`, (N, 256) bool, that differ in at most `most_bits` bits."""
    signs = bits.astype(np.float32) * 2 - 1
    rows = max(1, _AT_ONCE // len(signs))
    for start in range(0, len(signs), rows):
        # the dot product of two vectors of +-1 is 256 - 2 * Hamming distance
        products = signs[start : start + rows] @ signs[start:].T
        pairs = np.argwhere(products >= signs.shape[1] - 2 * most_bits)
        yield pairs[pairs[:, 1] > pairs[:, 0]] + start


def pixel_digest(pixels: np.ndarray) -> bytes:
    """Returns a digest of the pixels and size of an image (H, W, 3) uint8."""
    size = str(pixels.shape[:2]).encode("ascii")
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest() + size


def difference_hash(pixels: np.ndarray) -> np.ndarray | None:
    """Difference hash (256,) bool of an image (H, W, 3) uint8: whether each of 16 x 16 grey cells is brighter than its
    left neighbour.

    Pillow resizes with integers, so the hash is the same on every machine. None for an image of fewer than 8 grey
    levels, and for a hash of almost only zeros or ones, which distinguishes few images.
    """
    grey = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    cells = np.asarray(grey.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX))
    bits = (cells[:, 1:] > cells[:, :-1]).ravel()
    return bits if np.ptp(cells) >= _FLAT and _LEAST_SHARE <= bits.mean() <= 1 - _LEAST_SHARE else None
