"""A short hash that identifies the model of predictions."""

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor

from densevit.interfaces import Class

_VALUES = 16  # of each tensor


def fingerprint(classes: Mapping[str, Sequence[Class]], state: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits from classes and weights, equal on each device. Hashes the first values of each tensor,
    which any training of the tensor changes."""
    digest = hashlib.blake2b(digest_size=8)
    for name, head_classes in classes.items():
        digest.update(repr((name, [(c.file_id, c.name) for c in head_classes])).encode())
    for name, value in state.items():
        first = value.flatten()[:_VALUES].cpu().double().numpy()
        digest.update(f"{name}{tuple(value.shape)}".encode() + first.tobytes())
    return digest.hexdigest()
