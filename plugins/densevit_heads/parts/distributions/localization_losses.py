"""Losses of the distributions: fine-grained localization (section 4.1) and its self-distillation (section 4.2)."""

from torch import Tensor
from torch.nn import functional as F

from densevit_heads.parts.distributions.distribution import SoftBins

TEMPERATURE = 5.0  # of the distillation


def fine_grained_localization(corners: Tensor, bins: SoftBins) -> Tensor:
    """Fine-grained localization (FGL) loss: cross-entropy with the two bins around the true distance, by their weights.

    corners: logits (..., 4, N + 1). bins: (..., 4) each. Returns (...), summed over the edges.
    """
    log_p = corners.log_softmax(-1)
    left = log_p.gather(-1, bins.left[..., None])[..., 0]
    right = log_p.gather(-1, bins.left[..., None] + 1)[..., 0]
    return -((1 - bins.right_weight) * left + bins.right_weight * right).sum(-1)


def distribution_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of softened distributions, times the squared temperature (Hinton et al. 2015).

    student, teacher: logits (..., 4, N + 1); no gradient reaches the teacher. Returns (...), averaged over the edges.
    """
    log_p = (student / TEMPERATURE).log_softmax(-1)
    target = (teacher.detach() / TEMPERATURE).softmax(-1)
    return TEMPERATURE**2 * F.kl_div(log_p, target, reduction="none").sum(-1).mean(-1)


def decoupled_shares(counts: Tensor, weights: Tensor) -> Tensor:
    """The factors of a matched and of another query in the weighted average of two means: over the matched queries and
    over the other queries.

    counts: (..., 2), the numbers of matched and of other queries, which may be means over processes. weights: (2,).
    Returns (..., 2).
    """
    return weights / weights.sum().clamp(min=1e-6) / counts.clamp(min=1e-6)
