"""The cross-entropy of images with mixed labels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import LossContext
from densevit.layers.precision import autocast_off


def class_shares(values: Sequence[Tensor | None], num_classes: int, device: torch.device) -> Tensor:
    """Labels of images as shares of classes, (B, K) float32. Rows sum to the share that is labelled: 1, 0 for an
    unlabelled image, or less than 1 for a mixture with one.

    values: class indices () int64, (M, 2) class indices with their shares, or None for an unlabelled image. -1 is no
    class.
    """
    shares = torch.zeros(len(values), num_classes, device=device)
    for row, value in zip(shares, values, strict=True):
        if value is not None:
            labels = value.to(device)
            index, share = (labels[None], torch.ones_like(row[:1])) if labels.ndim == 0 else labels.T  # (M,) each
            row.index_add_(0, index.long().clamp(min=0), share * (index >= 0))
    return shares


def soft_cross_entropy(logits: Tensor, shares: Tensor, context: LossContext, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with shares of classes, as a mean over the labelled images of all processes, in which a mixture
    counts by its labelled share; 0 (connected to the graph) if there are none.

    logits: (B, K). shares: (B, K) (`class_shares`). label_smoothing: the argument of torch's `cross_entropy`. The
    normaliser in `Head.loss_counts` is `images`.
    """
    with autocast_off(logits.device):
        labelled = shares.sum(1)  # (B,), 0 ... 1
        target = shares / labelled.clamp(min=1e-6)[:, None]
        each = F.cross_entropy(logits.float(), target, reduction="none", label_smoothing=label_smoothing)
        [count] = context.mean_counts(images=labelled.sum())
        return (each * labelled).sum() / count.clamp(min=1e-6)
