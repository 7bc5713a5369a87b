"""Selects a submodule's part of a state dict and counts its blocks."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose key begins with `prefix`, by key without the prefix."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def leading_parts(keys: Iterable[str]) -> list[str]:
    """The leading parts of keys, each with its dot, the shortest first: `model.`, `model.backbone.`, ..."""
    return sorted(dict.fromkeys(key[: i + 1] for key in keys for i in range(len(key)) if key[i] == "."), key=len)


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose key begins with `prefix`, by key without the prefix; all tensors if no key begins with it."""
    return below(state, prefix) or dict(state)


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """The number of distinct values that the group of a regular expression has among the keys, such as the number of
    blocks for `blocks\\.(\\d+)\\..*`."""
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})
