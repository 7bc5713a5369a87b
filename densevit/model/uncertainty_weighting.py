"""Learned loss weights of heads by uncertainty (Kendall et al. 2018, section 3)."""

import torch
from torch import Tensor

from densevit.interfaces import Losses
from densevit.losses.context import LossContext


def uncertainty_weighted(terms: Losses, s: Tensor, is_labelled: bool, context: LossContext) -> Losses:
    """Weights the losses of a head, and adds the term `log_variance`.

    The sum L of the losses becomes L / sigma^2 + log sigma, the paper's term for classification, computed as
    exp(-s) L + s / 2. (The paper halves L for regression.) `log_variance` is 0, and s is not updated, if no process has
    a loss for the head: no labelled image, or only zero losses, as for depth without a valid pixel.

    s: log(sigma^2), a parameter (). is_labelled: whether an image of the batch has the head's targets. context: the
    head's.
    """
    has_loss = torch.stack([value.detach() != 0 for value in terms.values()]).any() & is_labelled
    counts = list(context.counts.values())
    active = torch.stack(counts).amax() if counts else context.mean(has_loss.float())
    weighted = {term: torch.exp(-s) * value for term, value in terms.items()}
    return {**weighted, "log_variance": s / 2 * (active > 0)}
