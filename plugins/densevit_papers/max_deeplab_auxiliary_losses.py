"""Auxiliary losses of MaX-DeepLab (Wang et al. 2021, section 3.4): mask-ID cross-entropy, instance discrimination and
semantic segmentation."""

from torch import Tensor
from torch.nn import functional as F

from densevit_papers.max_deeplab_masks import GridTruth, mean_over
from densevit_papers.max_deeplab_pq_loss import Match

TAU = 0.3  # τ, the temperature of instance discrimination


def mask_id_term(log_m_hat: Tensor, matched: Match) -> Tensor:
    """Cross-entropy of each labelled cell's query: a mean over these cells. log_m_hat: (Q, P), of the masks m̂."""
    m = matched.segments.masks.to(log_m_hat.dtype)  # (M, P)
    return mean_over(matched.segments.labelled, -(log_m_hat[matched.query] * m).sum(0))


def instance_discrimination(g: Tensor, truth: GridTruth, things: Tensor) -> Tensor:
    """Cross-entropy of the segment of each cell of a thing, by the similarity of the cell's feature g and the segments'
    mean features t.

    g: (C, P), normalised. things: (N,) bool, of the segments. A mean over the cells of things, as in the authors' code.
    """
    m = truth.masks.to(g.dtype)
    t = F.normalize(m @ g.T / m.sum(1, keepdim=True).clamp(min=1), dim=1)  # (N, C)
    log_probability = (t @ g / TAU).log_softmax(dim=0)  # (N, P)
    return mean_over((truth.masks & things[:, None]).any(0), -(log_probability * m).sum(0))


def semantic_term(cells: Tensor, truth: GridTruth) -> Tensor:
    """Cross-entropy of class logits (K, P) at labelled cells."""
    c = (truth.masks * truth.labels[:, None]).sum(0)  # (P,); segments do not overlap
    return mean_over(truth.labelled, F.cross_entropy(cells.T, c, reduction="none"))
