"""Builds modules without values, for the names and shapes of their tensors."""

from collections.abc import Callable
from typing import TypeVar

import torch

Built = TypeVar("Built")


def built_on_meta(build: Callable[[], Built]) -> Built:
    """What `build` returns on the meta device. torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build()
        except Exception:  # a constructor that reads tensor values, which meta tensors lack
            return build()
