"""The PQ-style loss: mask similarity, matching, and the loss of matched and other queries (MaX-DeepLab, Wang et al.
2021, section 3.2).

m: masks of segments, (N, P); c: their classes, (N,); m̂: masks of queries, (Q, P); p̂: their class probabilities,
(Q, K+1); σ̂: the queries of M matched segments, (M,). Dice and p̂ of the matched pairs weight each other's loss as
constants.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.losses.distributed import to_device
from densevit.losses.matching import assign
from densevit_papers.max_deeplab_masks import GridTruth, MaskOutputs

ALPHA = 0.75  # α, the weight of matched queries; 1 - α: of the others
LEAST_WEIGHT = 1e-5  # of the class of a query and of the dice of a mask
_EPS = 1e-5  # of areas


class Match(NamedTuple):
    """The matched pairs of an image, in the order of segments, and the weights of their losses.

    query: σ̂, (M,). segments: the M segments. class_probability, dice: (M,), p̂_σ̂(i)(c_i) and Dice(m_i, m̂_σ̂(i)).
    void: (Q,), the share of each query's mask on cells of no segment.
    """

    query: Tensor
    segments: GridTruth
    class_probability: Tensor
    dice: Tensor
    void: Tensor


@torch.no_grad()
def match(outputs: Sequence[MaskOutputs], truths: Sequence[GridTruth], strict: bool = True) -> list[Match]:
    """Matches the segments of each image to queries with the largest total similarity.

    outputs: (Q, K+1) and (Q, P) of each image. Segments in excess of the queries stay unmatched; their cells count as
    unlabelled. strict: the argument of `densevit.losses.matching.assign`. One transfer to the CPU.
    """
    if not truths:
        return []
    factors = [  # of the similarity, p̂_j(c_i) and Dice(m_i, m̂_j), (N, Q) each
        (x.logits.softmax(-1)[:, truth.labels].T, dice(x.masks, truth))
        for x, truth in zip(outputs, truths, strict=True)
    ]
    counts, names = [len(truth.labels) for truth in truths], [truth.name for truth in truths]
    costs = torch.cat([-(p_hat * overlap) for p_hat, overlap in factors])[None]  # (1, N of all images, Q)
    assigned = assign(costs, counts, names, strict)  # on the CPU
    [sigma], [segment] = assigned.query, assigned.target
    matches, first = [], 0
    for image, (x, truth, (p_hat, overlap)) in enumerate(zip(outputs, truths, factors, strict=True)):
        in_image = assigned.image == image
        i, j = (to_device(index[in_image], overlap.device) for index in (segment - first, sigma))
        first += counts[image]
        segments = truth.select(i)
        matches.append(Match(j, segments, p_hat[i, j], overlap[i, j], void_share(x.masks, segments)))
    return matches


def dice(masks: Tensor, truth: GridTruth) -> Tensor:
    """Dice coefficients of segments and masks, (N, Q), over labelled cells. masks: logits (Q, P)."""
    m, m_hat = truth.masks.to(masks.dtype), masks.softmax(dim=0) * truth.labelled
    return (m @ m_hat.T) / ((m.sum(1)[:, None] + m_hat.sum(1)) / 2 + _EPS)


def void_share(masks: Tensor, segments: GridTruth) -> Tensor:
    """The share of each mask on cells of no segment, (Q,). masks: logits (Q, P)."""
    m_hat = masks.softmax(dim=0)
    return (m_hat @ (~segments.labelled).to(m_hat.dtype)) / (m_hat.sum(1) + _EPS)


def label_term(logits: Tensor, matched: Match, void_weighting: bool) -> Tensor:
    """The cross-entropy of equation 10: -log p̂_σ̂(i)(c_i) weighted by Dice, and -log p̂ of "no object"
    of other queries; with the weights α and 1 - α. A mean over queries.

    logits: (Q, K+1). void_weighting: the argument of `PQCriterion`.
    """
    no_object = logits.shape[-1] - 1
    c = torch.full_like(matched.void, no_object, dtype=torch.long)  # (Q,)
    weight = matched.void.clamp(min=LEAST_WEIGHT) if void_weighting else torch.ones_like(matched.void)
    weight = (1 - ALPHA) * weight
    c[matched.query] = matched.segments.labels
    weight[matched.query] = ALPHA * matched.dice.clamp(min=LEAST_WEIGHT)
    return (weight * F.cross_entropy(logits, c, reduction="none")).mean()


def dice_term(m_hat: Tensor, matched: Match) -> Tensor:
    """The dice loss of equation 10, weighted by p̂_σ̂(i)(c_i) and α: the sum over Q.

    m_hat: (Q, P). A constant of 1 is added to the numerator and the denominator of Dice, as in the authors' code.
    """
    m_hat = m_hat * matched.segments.labelled
    m, x = matched.segments.masks.to(m_hat.dtype), m_hat[matched.query]  # (M, P) each
    loss = 1 - (2 * (x * m).sum(1) + 1) / (x.sum(1) + m.sum(1) + 1)
    return ALPHA * (matched.class_probability.clamp(min=LEAST_WEIGHT) * loss).sum() / len(m_hat)
