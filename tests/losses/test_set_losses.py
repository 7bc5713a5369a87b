"""Losses of scores and of matched sets of boxes, by hand and beside torchvision's and transformers'."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from densevit.losses.boxes import to_corners
from densevit.losses.classification import focal, iou_aware, matchability_aware, varifocal
from densevit.losses.context import LossContext
from densevit.losses.hungarian_loss import HungarianLoss
from densevit.losses.matching import MatchedPairs, Objects
from densevit.losses.set_losses import Classification, LossWeights, last_and_auxiliary, set_losses


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0)])
def test_focal_loss_matches_torchvision(alpha: float, gamma: float):
    from torchvision.ops import sigmoid_focal_loss

    logits = (4 * torch.randn(6, 5)).requires_grad_()
    targets = (torch.rand(6, 5) < 0.3).float()
    own = focal(logits, targets, alpha, gamma)
    theirs = sigmoid_focal_loss(logits, targets, alpha, gamma)
    torch.testing.assert_close(own, theirs)
    weight = torch.rand_like(logits)
    gradients = [torch.autograd.grad((loss * weight).sum(), logits)[0] for loss in (own, theirs)]
    torch.testing.assert_close(*gradients)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    targets = torch.tensor([0.0, 0.0, 1.0, 1.0])
    for function in (focal, varifocal, matchability_aware, iou_aware):
        loss = function(logits, targets)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all() and gradient.isfinite().all()


L, B, Q, K = 2, 3, 4, 3


@pytest.mark.parametrize(
    ("classification", "theirs", "gamma"),
    [
        ("varifocal", "loss_vfl", 2.0),
        ("varifocal_matched", "loss_vfl", 2.0),
        ("mal", "loss_mal", 1.5),
        ("iou_aware", "loss_ce", 2.0),
    ],
)
def test_losses_with_iou_targets_match_transformers(classification: Classification, theirs: str, gamma: float):
    """RT-DETR's varifocal, DEIMv2's matchability-aware and LW-DETR's loss, for boxes that overlap their objects: three
    in the first image, none in the second, one in the third."""
    from transformers.loss.loss_deimv2 import Deimv2Loss
    from transformers.loss.loss_lw_detr import LwDetrImageLoss
    from transformers.loss.loss_rt_detr import RTDetrLoss

    others = {"mal": Deimv2Loss.loss_labels_mal, "iou_aware": LwDetrImageLoss.loss_labels}
    loss = others.get(classification, RTDetrLoss.loss_labels_vfl)
    logits = torch.randn(L, B, Q, K, requires_grad=True)
    learned = (0.2 + 0.5 * torch.rand(L, B, Q, 4)).requires_grad_()
    image = torch.tensor([0, 0, 0, 2])
    objects = Objects(0.2 + 0.5 * torch.rand(4, 4), torch.tensor([2, 0, 1, 1]), image, [3, 0, 1], [0, 1, 2])
    pairs = MatchedPairs(image, torch.tensor([[3, 0, 1, 2], [1, 2, 0, 0]]), torch.arange(4).repeat(2, 1))
    boxes = learned.detach()
    boxes[pairs.layer, pairs.image, pairs.query] = objects.boxes[pairs.target] * (0.8 + 0.4 * torch.rand(L, 4, 4))
    found = set_losses(logits, boxes, objects, pairs, LossContext(), classification).label
    third = set_losses(logits, boxes, objects, pairs, LossContext(), classification, torch.tensor(12.0)).label
    torch.testing.assert_close(third, found / 3)  # with three predictions per object, as in denoising
    criterion = SimpleNamespace(num_classes=K, alpha=0.75, mal_alpha=None, gamma=gamma, focal_alpha=0.25)
    for layer in range(L):
        indices, targets = [], []
        for image in range(B):
            here, own = pairs.image == image, objects.image == image
            indices.append((pairs.query[layer, here], pairs.target[layer, here] - sum(objects.counts[:image])))
            targets.append({"class_labels": objects.labels[own], "boxes": objects.boxes[own]})
        at = (pairs.image, pairs.query[layer])
        criterion._get_source_permutation_idx = lambda _, at=at: at
        expected = loss(criterion, {"logits": logits[layer], "pred_boxes": boxes[layer]}, targets, indices, 4)
        torch.testing.assert_close(found[layer], expected[theirs])
    (gradient,) = torch.autograd.grad(
        set_losses(logits, learned, objects, pairs, LossContext(), classification).label.sum(),
        learned,
        allow_unused=True,
    )
    assert gradient is None, "a score learns from the box, the box not from the score"


def test_terms_of_earlier_layers_are_summed():
    terms = {"l1": torch.tensor([1.0, 2.0, 4.0]), "giou": torch.tensor([8.0, 16.0, 32.0])}
    assert last_and_auxiliary(terms) == {"l1": 4, "giou": 32, "auxiliary": 1 + 2 + 8 + 16}
    assert last_and_auxiliary(terms, proposals=True) == {"l1": 4, "giou": 32, "auxiliary": 2 + 16, "proposals": 1 + 8}


@pytest.mark.parametrize("classification", ["focal", "softmax"])
def test_label_weights_multiply_the_terms_of_the_objects_classes(classification):
    """Not the background terms, the boxes' losses and the normalisers; by hand, for two queries on their objects."""
    torch.manual_seed(1)
    logits = torch.randn(1, 2, 2 + (classification == "softmax"))
    boxes = torch.tensor([[[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.4, 0.4]]])
    target = {"boxes": to_corners(boxes[0]), "labels": torch.tensor([0, 1]), "size": (1, 1)}
    target["label_weights"] = torch.tensor([0.25, 1.0])
    losses = HungarianLoss(classification=classification)(logits, boxes, [target])
    if classification == "softmax":
        terms = F.cross_entropy(logits[0], target["labels"], reduction="none") * target["label_weights"]
    else:
        terms = focal(logits[0], torch.eye(2))
        terms[0, 0] *= 0.25
    torch.testing.assert_close(losses["label"], LossWeights().label * terms.sum() / 2)
    plain = HungarianLoss(classification=classification)(logits, boxes, [{**target, "label_weights": torch.ones(2)}])
    assert losses["l1"] == plain["l1"] and losses["giou"] == plain["giou"] and losses["label"] < plain["label"]
