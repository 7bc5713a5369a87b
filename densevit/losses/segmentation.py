"""Segmentation losses: cross-entropy, online hard example mining and dice, in fp32 and over all processes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.precision import autocast_off
from densevit.losses.argument_shapes import check_shapes
from densevit.losses.context import Counts, LossContext
from densevit.losses.target_maps import padded_maps

IGNORE = 255  # ignore index: excluded from losses and metrics


def label_maps(targets: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor:
    """Pads the `semantic` label maps of a batch to the largest size with IGNORE: (B, H, W) int64.

    Images without the key are IGNORE everywhere.
    """
    return padded_maps(targets, "semantic", IGNORE, torch.uint8, device).long()


@torch.no_grad()
def label_counts(targets: Sequence[Mapping[str, Any]], class_weights: Tensor | None = None) -> Counts:
    """The normalisers of `cross_entropy` and `dice`: `pixels`, the number of labelled pixels or the sum of their class
    weights, and `segments`, the number of (image, present class) pairs.

    targets: a dict for each image, with `semantic` (h, w) on the CPU if it is labelled. class_weights: (K,).
    """
    maps = [target["semantic"].flatten() for target in targets if "semantic" in target]
    by_class = [torch.bincount(x, minlength=IGNORE + 1)[:IGNORE].double() for x in maps]  # (IGNORE,) each
    weights = torch.ones(IGNORE, dtype=torch.float64)
    if class_weights is not None:
        weights[: len(class_weights)] = class_weights.double().cpu()
    return {
        "pixels": float(sum((count * weights).sum() for count in by_class)),
        "segments": float(sum((count > 0).sum() for count in by_class)),
    }


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    context: LossContext = LossContext(),
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    normalizer_name: str = "pixels",
) -> Tensor:
    """Cross-entropy as a mean over the labelled pixels of all processes; 0 (connected to the graph) if none.

    logits: (B, K, H, W). labels: (B, H, W) int64 or uint8, 0 ... K-1 or 255, which is ignored. class_weights: (K,); the
    mean is then weighted as in torch (mmsegmentation divides by the number of all pixels, including ignored ones).
    label_smoothing: the argument of `torch.nn.functional.cross_entropy`. normalizer_name: the key in `Head.loss_counts`
    of the number of labelled pixels, counted by `label_counts`.
    """
    check_shapes(logits=(logits, "B K H W"), labels=(labels, "B H W"))
    with autocast_off(logits.device):
        labels = labels.long()
        class_weights = None if class_weights is None else class_weights.float()  # the buffer may be in half precision
        each = F.cross_entropy(
            logits.float(),
            labels,
            class_weights,
            ignore_index=IGNORE,
            reduction="none",
            label_smoothing=label_smoothing,
        )
        if class_weights is None:
            total = (labels != IGNORE).sum().float()
        else:
            total = F.pad(class_weights, (0, IGNORE + 1 - len(class_weights)))[labels].sum()  # IGNORE has weight 0
        [total] = context.mean_counts(**{normalizer_name: total})
        return each.sum() / total.clamp(min=1e-6)


@torch.no_grad()
def hard_pixels(logits: Tensor, labels: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Online hard example mining (OHEM) as in mmsegmentation: sets all but the hard pixels to IGNORE.

    A pixel is hard if the probability of its true class is below `threshold`, or if it is among the `min_kept` least
    probable pixels of the image (mmsegmentation: min_kept * B pixels of the B images of a process together).
    logits: (B, K, H, W). labels: (B, H, W) int64.
    """
    with autocast_off(logits.device):
        hardness = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    labelled = labels != IGNORE
    hardness = hardness.masked_fill(~labelled, -1.0)  # cross-entropy is never negative
    each = hardness.flatten(1)  # (B, H*W)
    limit = -math.log(threshold) if threshold > 0 else math.inf
    hard = hardness > limit
    if min_kept > 0:
        cutoff = each.topk(min(min_kept, each.shape[1]), dim=1, sorted=False).values.amin(1)
        hard |= hardness >= cutoff[:, None, None]
    return labels.masked_fill(~(hard & labelled), IGNORE)


def dice(logits: Tensor, labels: Tensor, context: LossContext = LossContext()) -> Tensor:
    """Soft dice loss (Milletari et al. 2016), averaged over (image, present class) pairs of all processes; 0 if none.

    1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), with softmax probabilities p and sums over the labelled pixels of an
    image. logits: (B, K, H, W). labels: (B, H, W) int64 or uint8, 0 ... K-1 or 255, which is ignored.
    """
    check_shapes(logits=(logits, "B K H W"), labels=(labels, "B H W"))
    with autocast_off(logits.device):
        probability = logits.float().softmax(1).flatten(2)  # (B, K, H*W)
        labelled = (labels != IGNORE).flatten(1)
        true = labels.long().flatten(1).where(labelled, 0)
        weight = labelled.to(probability.dtype)
        true_probability = probability.gather(1, true[:, None])[:, 0] * weight
        zeros = probability.new_zeros(probability.shape[:2])  # (B, K)
        overlap = zeros.scatter_add(1, true, true_probability)
        count = zeros.scatter_add(1, true, weight)
        predicted = (probability @ weight[..., None])[..., 0]
        present = count > 0
        each = (1 - (2 * overlap + 1) / (predicted + count + 1)) * present
        [count] = context.mean_counts(segments=present.sum().float())
        return each.sum() / count.clamp(min=1e-6)
