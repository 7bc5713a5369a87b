"""Losses of class scores, without reduction, and the classes that have part in them."""

import torch
from torch import Tensor
from torch.nn import functional as F

_MASKED = -1e4  # the logit of a class without part in the loss: its probability is 0 in fp32


def focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017, equation 5), in fp32. logits, targets (0 or 1): (...). Returns (...)."""
    logits, targets = logits.float(), targets.float()
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    error = probability * (1 - targets) + (1 - probability) * targets
    return cross_entropy * error**gamma * (alpha * targets + (1 - alpha) * (1 - targets))


def varifocal(logits: Tensor, quality: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Varifocal loss (VarifocalNet, Zhang et al. 2021, equation 2): scores learn the IoU of their boxes.

    logits: (...). quality: (...), IoU of the box with its object at the object's class, 0 elsewhere. Returns (...).
    """
    weight = torch.where(quality > 0, quality, alpha * logits.detach().sigmoid() ** gamma)
    return weight * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def matchability_aware(logits: Tensor, quality: Tensor, gamma: float = 1.5) -> Tensor:
    """Matchability-aware loss (DEIM, Huang et al. 2025, equation 4): scores learn the IoU of their boxes.

    logits: (...). quality: (...), IoU of the box with its object at the object's class, 0 elsewhere. Returns (...).
    """
    target = quality**gamma
    weight = (logits.detach().sigmoid() ** gamma).masked_fill(quality > 0, 1.0)
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def iou_aware(logits: Tensor, quality: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """IoU-aware binary cross-entropy (LW-DETR, Chen et al. 2024): scores learn the IoU of their boxes.

    The target of a matched class is p^alpha * IoU^(1 - alpha), at least 0.01 as in the authors' code, without gradient;
    other cross-entropies have the weight p^gamma, with its gradient.
    logits: (...). quality: (...), IoU of the box with its object at the object's class, 0 elsewhere. Returns (...).
    """
    p = logits.sigmoid()
    target = (p.detach() ** alpha * quality ** (1 - alpha)).clamp(min=0.01)
    target = torch.where(quality > 0, target, 0.0)
    weight = torch.where(quality > 0, 1.0, p**gamma)
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def with_label_weights(losses: Tensor, index: tuple[Tensor, ...], weights: Tensor | None) -> Tensor:
    """Class losses in which the term of an object's class is multiplied by the object's weight, such as the score of a
    predicted label: sum_i w_i L_i over the positive terms, normalised as without weights.

    losses: (...). index: the position of each positive term, (P,) each. weights: (P,); None: all are 1.
    """
    if weights is None:
        return losses
    factors = torch.ones_like(losses)
    factors[index] = weights
    return losses * factors


def labelled_logits(logits: Tensor, targets: Tensor, labelled: Tensor | None) -> Tensor:
    """Logits for the class losses of images in which only some classes are labelled, as federated losses on LVIS (Gupta
    et al. 2019, section 3.1): a class that is not labelled in an image is neither positive nor negative there.

    Its logit is -1e4, without gradient. Binary losses -w log(1 - sigmoid(x)) are then exactly 0, and a softmax is over
    the labelled classes j and "no object": p_k = exp(x_k) / sum_j exp(x_j). Normalisers are as without these classes.
    The class of an object keeps its logit at the predictions that learn it: objects are positive also where others of
    their class may be unlabelled (`not_exhaustive_category_ids` of LVIS).

    logits: (..., K). targets: (..., K), above 0 at the class that a prediction learns. labelled: bool, broadcast to the
    logits; None: all classes.
    """
    return logits if labelled is None else logits.masked_fill(~labelled & (targets == 0), _MASKED)
