"""Hybrid matching (H-DETR, Jia et al. 2023): queries matched one-to-many, in training only."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class HybridMatching(NamedTuple):
    """The paper's hybrid branch scheme (section 3.2). queries: T of the paper; 0: none. repeats: K of the paper.

    The decoder has `queries` more queries, after those that are matched one-to-one, with self-attention among
    themselves. In their loss each object is to be found `repeats` times.
    """

    queries: int = 0
    repeats: int = 6


ONE_TO_ONE = HybridMatching()  # DETR's matching only


def hybrid_attention_bias(bias: Tensor | None, others: int, hybrid: int, device: torch.device) -> Tensor:
    """Bias of self-attention with one-to-many queries last: these and the others do not attend to each other.

    bias: of the `others`, (others, others); None: 0. Returns (others + hybrid, others + hybrid), 0 or -inf (masked).
    """
    if bias is None:
        bias = torch.zeros(others, others, device=device)
    bias = F.pad(bias, (0, hybrid, 0, hybrid), value=float("-inf"))
    bias[others:, others:] = 0.0
    return bias
