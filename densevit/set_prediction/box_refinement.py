"""Boxes as logits, refined relative to a reference."""

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.mlp import Mlp


def inverse_sigmoid(x: Tensor, eps: float = 1e-4) -> Tensor:
    """Logit of x (...) in [0, 1], clamped to [eps, 1 - eps]."""
    return torch.logit(x, eps)


def refine(head: Mlp, x: Tensor, reference: Tensor, eps: float = 1e-4) -> Tensor:
    """Adds the offsets that the head predicts to the reference, both as logits (Deformable DETR, Zhu et al. 2021, A.4).

    Computed in at least fp32. x: (..., C). reference: boxes (..., 4) cxcywh or points (..., 2), in 0 ... 1. Returns
    boxes (..., 4) cxcywh.
    """
    return _add(head.in_full_precision(x), reference, eps)


def look_forward_twice(
    head: Mlp, x: Tensor, reference: Tensor, undetached: Tensor, eps: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Refinement whose loss also reaches the offsets of the layer before (DINO, Zhang et al. 2023, section 3.5).

    x: (..., C). reference: boxes (..., 4) or points (..., 2) of the layer before, detached. undetached: the same with
    their gradient.
    Returns the boxes for the loss, with the gradient of `undetached`, and equal boxes for the next layer without it.
    """
    offsets = head.in_full_precision(x)
    return _add(offsets, undetached, eps), _add(offsets, reference, eps)


def _add(offsets: Tensor, reference: Tensor, eps: float) -> Tensor:
    """Adds offsets (..., 4) to boxes (..., 4) or points (..., 2) as logits. Returns boxes (..., 4)."""
    initial = inverse_sigmoid(reference, eps)
    if reference.shape[-1] == 2:
        initial = F.pad(initial, (0, 2))
    return (offsets + initial).sigmoid()
