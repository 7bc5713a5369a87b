"""Losses on maps of classes: cross-entropy, the choice of hard pixels, and dice. All in fp32, over all processes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.precision import autocast_off
from densevit.losses.distributed import mean_over_processes

IGNORE = 255  # the label that is neither trained on nor counted


def label_maps(targets: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor:
    """The images' `semantic` on the smallest grid that holds them all: (B, H, W) int64.

    What lies outside a picture, and an image without the key, is IGNORE.
    """
    H, W = (max(target["size"][axis] for target in targets) for axis in (0, 1))
    labels = torch.full((len(targets), H, W), IGNORE, dtype=torch.uint8, device=device)
    for own, target in zip(labels, targets, strict=True):
        if "semantic" in target:
            h, w = target["semantic"].shape
            own[:h, :w] = target["semantic"]
    return labels.long()


def cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy, as a mean over the labelled pixels of all processes; 0 and connected where there are none.

    logits: (B, K, H, W). labels: (B, H, W) int64, 0 ... K-1 or IGNORE. class_weights: (K,); the mean is then weighted
    by each pixel's, as torch's is (mmsegmentation divides by the number of all pixels, ignored ones too).
    label_smoothing: the share of the truth that is spread over all classes.
    """
    with autocast_off(logits.device):
        class_weights = None if class_weights is None else class_weights.float()  # a buffer of the model's precision
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
            total = F.pad(class_weights, (0, IGNORE + 1 - len(class_weights)))[labels].sum()  # IGNORE weighs nothing
        return each.sum() / mean_over_processes(total).clamp(min=1e-6)


@torch.no_grad()
def hard_pixels(logits: Tensor, labels: Tensor, threshold: float, min_kept: int) -> Tensor:
    """The labels with all but the hard pixels ignored: online hard example mining, as in mmsegmentation.

    Hard is where the true class has a probability below `threshold`, and in any case the `min_kept` least probable
    pixels of an image (mmsegmentation: min_kept * B of the process's B images together, which is the same for one).
    logits: (B, K, H, W). labels: (B, H, W) int64.
    """
    with autocast_off(logits.device):
        hardness = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    labelled = labels != IGNORE
    hardness = hardness.masked_fill(~labelled, -1.0)  # a cross-entropy is never below 0
    each = hardness.flatten(1)  # (B, H*W)
    limit = -math.log(threshold) if threshold > 0 else math.inf
    kept = hardness > limit
    if min_kept > 0:
        least = each.topk(min(min_kept, each.shape[1]), dim=1, sorted=False).values.amin(1)
        kept |= hardness >= least[:, None, None]
    return labels.masked_fill(~(kept & labelled), IGNORE)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Soft dice loss (Milletari et al. 2016), of each image and class that is in its truth; 0 where there is none.

    1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), with softmax's p and sums over an image's labelled pixels, as a mean
    over such pairs of all processes. logits: (B, K, H, W). labels: (B, H, W) int64.
    """
    with autocast_off(logits.device):
        probability = logits.float().softmax(1).flatten(2)  # (B, K, H*W)
        labelled = (labels != IGNORE).flatten(1)
        true = labels.flatten(1).where(labelled, 0)
        weight = labelled.to(probability.dtype)
        of_true = probability.gather(1, true[:, None])[:, 0] * weight
        by_class = probability.new_zeros(probability.shape[:2])  # (B, K)
        overlap = by_class.scatter_add(1, true, of_true)
        number = by_class.scatter_add(1, true, weight)
        predicted = (probability @ weight[..., None])[..., 0]
        present = number > 0
        each = (1 - (2 * overlap + 1) / (predicted + number + 1)) * present
        return each.sum() / mean_over_processes(present.sum().float()).clamp(min=1e-6)
