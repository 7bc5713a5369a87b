"""Classification losses: of objects, without reduction, and of images with mixed labels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.precision import autocast_off
from densevit.losses.context import LossContext


def focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017, equation 5). logits, targets (0 or 1): (...). Returns (...)."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    error = probability * (1 - targets) + (1 - probability) * targets
    return cross_entropy * error**gamma * (alpha * targets + (1 - alpha) * (1 - targets))


def varifocal(logits: Tensor, quality: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Varifocal loss (VarifocalNet, Zhang et al. 2021, equation 2): scores learn the IoU of their boxes.

    logits: (...). quality: (...), IoU of the box with its object at the object's class, 0 elsewhere. Returns (...).
    """
    weight = torch.where(quality > 0, quality, alpha * logits.detach().sigmoid() ** gamma)
    return weight * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def matchability_aware(logits: Tensor, quality: Tensor, gamma: float = 1.5) -> Tensor:
    """Matchability-aware loss (DEIM, Huang et al. 2025, equation 4): scores learn the IoU of their boxes.

    logits: (...). quality: (...), IoU of the box with its object at the object's class, 0 elsewhere. Returns (...).
    """
    target = quality**gamma
    weight = (logits.detach().sigmoid() ** gamma).masked_fill(quality > 0, 1.0)
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def iou_aware(logits: Tensor, quality: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """IoU-aware binary cross-entropy (LW-DETR, Chen et al. 2024): scores learn the IoU of their boxes.

    The target of a matched class is p^alpha * IoU^(1 - alpha), at least 0.01 as in the authors' code, without gradient;
    other cross-entropies have the weight p^gamma, with its gradient.
    logits: (...). quality: (...), IoU of the box with its object at the object's class, 0 elsewhere. Returns (...).
    """
    p = logits.sigmoid()
    target = (p.detach() ** alpha * quality ** (1 - alpha)).clamp(min=0.01)
    target = torch.where(quality > 0, target, 0.0)
    weight = torch.where(quality > 0, 1.0, p**gamma)
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


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

    logits: (B, K). shares: (B, K), see `class_shares`. label_smoothing: the argument of torch's `cross_entropy`. The
    normaliser in `Head.loss_counts` is `images`.
    """
    with autocast_off(logits.device):
        labelled = shares.sum(1)  # (B,), 0 ... 1
        target = shares / labelled.clamp(min=1e-6)[:, None]
        each = F.cross_entropy(logits.float(), target, reduction="none", label_smoothing=label_smoothing)
        [count] = context.mean_counts(images=labelled.sum())
        return (each * labelled).sum() / count.clamp(min=1e-6)
