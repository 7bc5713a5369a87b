"""Counts and reports skipped images, whose files cannot be read (`data.on_error: skip`)."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from densevit.interfaces import LossContext

_NAMED = 5  # images named in warnings


class SkippedImages:
    """Counts the skipped images in the batches of this process (`Batch`). Warnings name the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self._named: set[str] = set()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Adds the skipped images of a batch."""
        for reason in batch.get("skipped", ()):
            self.count += 1
            if reason not in self._named and len(self._named) < _NAMED:
                self._named.add(reason)
                warnings.warn(f"{reason} The image is left out (data.on_error: skip).", stacklevel=2)

    def report(self, where: str, device: torch.device) -> int:
        """Returns the count over all processes since the last report; rank 0 warns. All processes must call this.

        where: the time in the message, such as "epoch 3".
        """
        total, self.count = int(LossContext.across_processes().sum(torch.tensor(self.count, device=device))), 0
        if total and getattr(rank_zero_only, "rank", 0) == 0:
            counted = f"{total} image{'s were' if total > 1 else ' was'}"
            warnings.warn(
                f"{where}: {counted} left out, because files cannot be read (data.on_error: skip).", stacklevel=2
            )
        return total


def may_skip(loaders: Any) -> bool:
    """Whether one of a trainer's loaders skips unreadable images."""
    several = loaders if isinstance(loaders, Sequence) else [loaders]
    return any(getattr(getattr(loader, "dataset", None), "on_error", None) == "skip" for loader in several)
