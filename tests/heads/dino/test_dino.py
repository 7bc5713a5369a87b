"""DINO's look-forward-twice and contrastive denoising (Zhang et al. 2023), in all heads that have them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import Class, Targets
from densevit.layers.mlp import Mlp
from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.context import LossContext
from densevit.losses.matching import Objects
from densevit.set_prediction.box_refinement import look_forward_twice
from densevit.set_prediction.denoising import ContrastiveDenoising
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dab_detr import DabDetr
from densevit_heads.dab_detr.extensions import Extensions
from densevit_heads.dino import Dino
from tests.heads.padded_batch import padded_batch, perturbed

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(3)]


def update(box: Tensor, offsets: Tensor) -> Tensor:
    """Equation 2 of the paper: the offsets are added to the logits of the box."""
    return (torch.special.logit(box) + offsets).sigmoid()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predicted_boxes_follow_the_equations(dtype: torch.dtype):
    """b'_i = Update(b_i-1, d_i), b_i = Detach(b'_i), b_pred_i = Update(b'_i-1, d_i), of three layers."""
    heads = [Mlp(8, 8, 4, 3) for _ in range(3)]
    states = [torch.randn(2, 5, 8) for _ in range(3)]
    initial = 0.2 + 0.6 * torch.rand(2, 5, 4)
    reference = undetached = initial
    predicted = []
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for head, x in zip(heads, states, strict=True):
            boxes, undetached = look_forward_twice(head, x, reference, undetached)
            predicted.append(boxes)
            reference = undetached.detach()
    b = b_prime = initial
    for i, (head, x) in enumerate(zip(heads, states, strict=True)):
        expected, b_prime = update(b_prime, head(x)), update(b, head(x))
        b = b_prime.detach()
        torch.testing.assert_close(predicted[i], expected)
        parameters = [p for h in heads for p in h.parameters()]
        weight = torch.randn_like(expected)
        found, truth = (
            torch.autograd.grad((weight * x).sum(), parameters, retain_graph=True, allow_unused=True)
            for x in (predicted[i], expected)
        )
        for own, theirs in zip(found, truth, strict=True):
            assert (own is None) == (theirs is None)
            if own is not None:
                torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-6)
        reached = {j for j in range(3) if truth[6 * j] is not None}
        assert reached == {i, max(i - 1, 0)}, "its own layer and the one before"


@pytest.mark.parametrize("kind", [Dino, DabDetr])
def test_the_heads_predict_the_same_and_learn_more(kind: Any):
    """On images of three sizes, one without objects: equal losses, other gradients of the box heads."""
    features, mask, targets = padded_batch()
    found = []
    for twice in (True, False):
        torch.manual_seed(0)
        options: dict[str, Any] = {"contrastive_denoising": 0, "look_forward_twice": twice}
        if kind is DabDetr:
            options = {"extensions": Extensions(two_stage=True, look_forward_twice=twice)}
        head: Any = kind((6,), (8,), CLASSES, 5, Transformer(32, 2, 1, 3, 16, dropout=0.0), **options)
        losses = perturbed(head).loss(head.train()(features, mask, targets), targets, LossContext())
        torch.stack(list(losses.values())).sum().backward()
        last = head.box_heads[0].last if kind is Dino else head.box_head.last
        found.append((losses, last.weight.grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1], rtol=1e-2)


K, Q = 4, 5
CPU = torch.device("cpu")


def make_targets(counts: list[int]) -> list[Targets]:
    return padded_batch(counts, num_classes=K)[2]


def rt_detr(objects: Objects, count: int, embedding: torch.nn.Embedding) -> tuple[Any, ...]:
    """The same by transformers. Its embedding has a row more, for padding."""
    from transformers.models.rt_detr.modeling_rt_detr import get_contrastive_denoising_training_group

    own = [objects.image == image for image in range(len(objects.counts))]
    targets = [{"class_labels": objects.labels[mask], "boxes": objects.boxes[mask]} for mask in own]
    rows = torch.cat([embedding.weight, torch.zeros(1, embedding.embedding_dim)])
    return get_contrastive_denoising_training_group(
        targets, K, Q, lambda labels: rows[labels.long()], count, label_noise_ratio=0.0, box_noise_scale=0.4
    )


@pytest.mark.parametrize(("counts", "positives", "groups"), [([2, 0, 3], 10, 3), ([1, 4, 2], 3, 1)])
def test_groups_boxes_and_attention_match_rt_detr(
    monkeypatch: pytest.MonkeyPatch, counts: list[int], positives: int, groups: int
):
    objects = Objects.of(make_targets(counts), CPU)
    denoising = ContrastiveDenoising(8, K, positives, label_noise=0.0, box_noise=0.4)
    with monkeypatch.context() as patch:  # corners move by 2 * 0.8 - 1 = 0.6 of the limit
        patch.setattr(torch, "rand_like", lambda x, **_: torch.full_like(x, 0.8))
        found = denoising(objects, Q)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand_like", lambda x, **_: torch.full_like(x, 0.6))
        patch.setattr(torch, "randint_like", lambda x, *_, **__: torch.ones_like(x))
        contents, logits, mask, meta = rt_detr(objects, positives, denoising.label_embedding)
    assert meta["dn_num_group"] == groups and found.contents.shape == contents.shape
    at = (found.image, found.query)  # the others are padding, which no query attends to; in RT-DETR's they do
    is_padding = torch.ones(len(counts), len(mask), dtype=torch.bool)
    is_padding[at] = False
    is_padding[:, -Q:] = False
    expected = mask.expand(len(counts), 1, -1, -1).masked_fill(is_padding[:, None, None], -torch.inf)
    assert torch.equal(found.attention_bias, expected)
    torch.testing.assert_close(found.contents[at], contents[at])
    torch.testing.assert_close(found.boxes[at], logits[at].sigmoid(), atol=1e-5, rtol=1e-4)
    T = sum(counts)
    assert len(found.image) == 2 * groups * T and len(found.target) == groups * T
    for image in range(3):
        own = found.image[: groups * T] == image
        assert sorted(found.query[: groups * T][own].tolist()) == meta["dn_positive_idx"][image].tolist()


def test_the_loss_of_negative_queries_is_that_of_no_object():
    """Focal loss of all queries, boxes of the positive ones, over the number of positive queries."""
    from torchvision.ops import sigmoid_focal_loss

    torch.manual_seed(0)
    classes = [Class(str(i), i, (0, 0, 0)) for i in range(K)]
    head = DabDetr(
        (6,), (8,), classes, Q, Transformer(32, 2, 1, 2, 16), extensions=Extensions(contrastive_denoising=10)
    )
    targets = make_targets([2, 0, 3])
    mask = torch.zeros(3, 48, 64, dtype=torch.bool)
    outputs = head.train()([torch.randn(3, 6, 6, 8)], mask, targets)
    objects = Objects.of(targets, CPU)
    logits, boxes, target = outputs["denoising"]
    L, R = logits.shape[:2]
    P = 3 * 5  # 10 // 3 groups of 5 objects
    assert (L, R, len(target)) == (2, 2 * P, P)
    one_hot = F.one_hot(objects.labels[target], K).float()
    one_hot = torch.cat([one_hot, torch.zeros(P, K)])
    expected = torch.zeros(())
    for layer in range(L):
        expected = expected + sigmoid_focal_loss(logits[layer], one_hot).sum() / P
        predicted, truth = boxes[layer, :P], objects.boxes[target]
        expected = expected + 5 * (predicted - truth).abs().sum() / P
        expected = expected + 2 * (1 - overlaps(to_corners(predicted), to_corners(truth))[1]).sum() / P
    torch.testing.assert_close(head.loss(outputs, targets, LossContext())["denoising"], expected)
