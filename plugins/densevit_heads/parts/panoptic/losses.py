"""Losses of masks of matched queries (Carion et al. 2020, section 4.4)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.precision import autocast_off
from densevit.losses.classification import focal
from densevit.losses.context import LossContext


def mask_losses(
    logits: Tensor, masks: Tensor, valid: Tensor, object_count: int, context: LossContext
) -> tuple[Tensor, Tensor]:
    """Focal loss (Lin et al. 2017), averaged over pixels, and dice loss (Milletari et al. 2016) of P masks.

    logits: (P, h, w), upsampled to the size of the masks. masks, valid: (P, H, W) bool; pixels that are not valid are
    left out. In fp32 regardless of autocast. Both are sums over masks, normalised by the number of objects, averaged
    over processes; 0 (connected to the graph) without masks. Padding of the batch is background, as in the authors'
    code, in which void is background too.
    """
    with autocast_off(logits.device):
        count = torch.full((), float(object_count), device=logits.device)
        [count] = context.mean_counts(objects=count)
        count = count.clamp(min=context.min_normalizer())
        if not len(logits):
            zero = logits.float().sum()
            return zero, zero
        logits = F.interpolate(logits.float()[:, None], size=masks.shape[-2:], mode="bilinear", align_corners=False)
        logits, truth, weight = logits.flatten(1), masks.flatten(1).float(), valid.flatten(1).float()  # (P, H*W)
        probability = logits.sigmoid() * weight
        overlap, area = 2 * (probability * truth).sum(1), probability.sum(1) + truth.sum(1)
        each = (focal(logits, truth) * weight).sum(1) / weight.sum(1).clamp(min=1)
        return each.sum() / count, (1 - (overlap + 1) / (area + 1)).sum() / count
