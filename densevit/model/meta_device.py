"""Builds modules on the meta device, for names and shapes of their tensors."""

from collections.abc import Callable
from typing import TypeVar

import torch

Built = TypeVar("Built")


def built_on_meta(build: Callable[[], Built]) -> Built:
    """Calls `build` on the meta device. Leaves torch's random state unchanged."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build()
        except Exception:  # some constructors read values, which meta tensors lack
            return build()
