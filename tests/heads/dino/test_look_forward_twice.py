"""Look-forward-twice (DINO, Zhang et al. 2023, section 3.5) against its equations, written out layer by layer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from densevit.interfaces import Class
from densevit.layers.mlp import Mlp
from densevit.losses.context import LossContext
from densevit.set_prediction.box_refinement import look_forward_twice
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
