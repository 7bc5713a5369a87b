"""Boxes as logits, refined relative to a reference."""

from torch import Tensor
from torch.nn import functional as F

from densevit.layers.mlp import Mlp


def inverse_sigmoid(x: Tensor, eps: float = 1e-4) -> Tensor:
    """Logit of x in [0, 1], clamped to [eps, 1 - eps]."""
    x = x.clamp(eps, 1 - eps)
    return (x / (1 - x)).log()


def refine(head: Mlp, x: Tensor, reference: Tensor, eps: float = 1e-4) -> Tensor:
    """Adds the offsets that the head predicts to the reference, both as logits, in at least fp32.

    x: (..., C). reference: boxes (..., 4) cxcywh or points (..., 2), in 0 ... 1. Returns boxes (..., 4) cxcywh.
    """
    initial = inverse_sigmoid(reference, eps)
    if reference.shape[-1] == 2:
        initial = F.pad(initial, (0, 2))
    return (head.in_full_precision(x) + initial).sigmoid()
