"""The criterion of a batch with an unlabelled image, beside torchvision's losses of pairs that are known."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.losses.context import LossContext
from densevit.losses.dense_detection import dense_detection
from densevit.losses.matching import MatchingCosts, Objects
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.denoising import ContrastiveDenoising

K = 3
BOXES = torch.tensor([[0.2, 0.3, 0.2, 0.2], [0.7, 0.6, 0.4, 0.3], [0.5, 0.5, 0.3, 0.6]])
LABELS = torch.tensor([2, 0, 1])
TARGETS: list[Any] = [
    {"boxes": torch.tensor([[10, 20, 30, 40], [50, 45, 90, 75]]), "labels": LABELS[:2], "size": (100, 100)},
    {"size": (100, 100)},
    {"boxes": torch.tensor([[35, 20, 65, 80]]), "labels": LABELS[2:], "size": (100, 100)},
]
# The queries of the labelled images, number image * 4 + query, of two layers; the first three are those of the objects.
ORDER = torch.tensor([[3, 0, 10, 1, 2, 8, 9, 11], [1, 3, 8, 0, 2, 9, 10, 11]])


def weighted(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor, objects: float) -> list[Tensor]:
    """The terms of R predictions (R, K) and (R, 4), of which the first ones match the objects."""
    from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

    one_hot = F.pad(F.one_hot(labels, K).float(), (0, 0, 0, len(logits) - len(labels)))
    boxes = boxes[: len(labels)]
    giou = generalized_box_iou(*(box_convert(x, "cxcywh", "xyxy") for x in (boxes, truth))).diagonal()
    terms = 1.5 * sigmoid_focal_loss(logits, one_hot).sum(), 4 * (boxes - truth).abs().sum(), 3 * (1 - giou).sum()
    return [term / objects for term in terms]


@pytest.mark.parametrize(("counted", "class_proposals"), [(3.0, False), (6.0, True)])
def test_losses_of_layers_proposals_denoising_and_cells(counted: float, class_proposals: bool):
    """counted: the objects of the step, which are the normaliser."""
    criterion = SetCriterion(
        MatchingCosts(), LossWeights(1.5, 4.0, 3.0), "focal", ContrastiveDenoising(8, K, 4), 2.5, class_proposals
    )
    logits, boxes = torch.randn(2, 12, K) - 2, torch.tensor([0.05, 0.95, 0.02, 0.02]).repeat(2, 12, 1)
    for layer, order in enumerate(ORDER):
        boxes[layer, order[:3]] = BOXES + 0.03 * torch.rand(3, 4)
    proposed = logits[0] if class_proposals else torch.full((12, K), -1.0)
    noised = torch.randn(2, 5, K), 0.3 + 0.4 * torch.rand(2, 5, 4), torch.tensor([0, 2, 1])  # three positive queries
    cells = torch.randn(3, 6, K), 0.3 + 0.4 * torch.rand(3, 6, 4), torch.rand(3, 6, 2), torch.zeros(3, 6).bool()
    layers = logits.unflatten(1, (3, 4)).requires_grad_(), boxes.unflatten(1, (3, 4)).requires_grad_()
    outputs = {"logits": layers[0][-1], "layers": layers, "denoising": noised, "dense": cells}
    outputs["proposals"] = proposed.view(3, 4, K), layers[1][0]
    context = LossContext(counts={name: torch.tensor(counted) for name in ("objects", "denoising")})
    losses = criterion.losses(outputs, TARGETS, context)

    first, last = (weighted(*(x[i, ORDER[i]] for x in (logits, boxes)), LABELS, BOXES, counted) for i in range(2))
    labels = LABELS if class_proposals else torch.zeros(3, dtype=torch.long)
    denoising = [weighted(x, y, LABELS[noised[2]], BOXES[noised[2]], counted) for x, y in zip(*noised[:2], strict=True)]
    objects = Objects(BOXES, LABELS, torch.tensor([0, 0, 1]), [2, 1], ["", ""])
    terms = dense_detection(*(x[[0, 2]] for x in cells), objects, context)
    expected = {**dict(zip(("label", "l1", "giou"), last, strict=True)), "auxiliary": sum(first)}
    expected["proposals"] = sum(weighted(proposed[ORDER[0]], boxes[0, ORDER[0]], labels, BOXES, counted))
    expected["denoising"] = sum(map(sum, denoising))
    expected["dense"] = 2.5 * (1.5 * terms.label + 4 * terms.l1 + 3 * terms.giou)
    torch.testing.assert_close(losses, expected)

    pairs = criterion.match(outputs, Objects.of(TARGETS, BOXES.device), strict=True)
    assert pairs.image.tolist() == [0, 0, 2] and torch.equal(pairs.query[-2:], ORDER[:, :3] % 4)
    torch.testing.assert_close(criterion.losses({**outputs, "pairs": pairs}, TARGETS, context), expected)
    del outputs["denoising"], outputs["dense"]
    losses = criterion.losses(outputs, [{"size": (9, 9)}] * 3, LossContext())
    assert list(losses) == list(expected) and not any(losses.values())
    assert not any(gradient.any() for gradient in torch.autograd.grad(sum(losses.values()), layers))


@pytest.mark.parametrize(
    ("options", "counts", "terms"),
    [
        ((None, 0.0), {"objects": 3}, ["label", "l1", "giou", "auxiliary"]),
        (
            (ContrastiveDenoising(8, K, 4), 1.0),
            {"objects": 3, "denoising": 6},
            ["label", "l1", "giou", "auxiliary", "denoising", "dense"],
        ),
    ],
)
def test_options_have_terms_and_normalisers(options: Any, counts: dict[str, float], terms: list[str]):
    criterion = SetCriterion(MatchingCosts(), LossWeights(), "mal", *options)
    layers = torch.rand(1, 3, 4, K), torch.rand(1, 3, 4, 4)
    assert criterion.loss_counts([2, 1]) == counts
    assert list(criterion.losses({"logits": layers[0][0], "layers": layers}, TARGETS, LossContext())) == terms
