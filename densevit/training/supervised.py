"""Supervised training: the default method."""

from typing import Any

from densevit.interfaces import Batch, Losses, Method


class Supervised(Method):
    """Minimises the weighted losses of all heads on labelled images."""

    needs_heads = True
    needs_labels = True

    def training_step(self, model: Any, batch: Batch) -> Losses:
        losses: Losses = model.loss(model(batch), batch["targets"])
        return losses
