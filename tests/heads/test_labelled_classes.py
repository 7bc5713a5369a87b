"""Every head with classes, where a class is not labelled in an image."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit import registry
from densevit.errors import ConfigError
from densevit.interfaces import Head, LossContext, Losses, Outputs, Targets
from densevit.model.batch_checks import check_partial_labels
from densevit_workbench.testing.head_checks import CHANNELS, STRIDES
from densevit_workbench.testing.head_fixtures import HeadFixture, total
from tests.heads.cases import CASES

K = 19  # unlike other last dimensions of outputs, as K + 1
REFUSED = {"deformable_detr, two-stage", "faster_rcnn", "kmax_deeplab", "max_deeplab"}
"""Heads with a loss of objects of any class against background, or of segments without `labelled`."""
OF_CLASSES = [name for name, case in CASES.items() if registry.load("heads", case.head).task != "depth"]


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Nested outputs with `function` of each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [mapped(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


@pytest.mark.parametrize("name", OF_CLASSES)
def test_an_unlabelled_class_has_no_gradient_and_the_loss_is_that_without_the_class(name: str):
    case = CASES[name]
    factory = functools.partial(registry.load("heads", case.head), **case.options)
    fixture = HeadFixture(factory, CHANNELS[: case.levels], STRIDES[: case.levels], case.reach)
    head, smaller = fixture.build(classes=K).train(), fixture.build(classes=K - 1).train()
    batch = fixture.batch(classes=4)
    row = torch.arange(K) < K - 1
    if name in REFUSED:
        with pytest.raises(ConfigError, match=r"heads.x would learn that objects .* are background. Fix: "):
            check_partial_labels("heads.x", head)
        return
    check_partial_labels("heads.x", head)

    def outputs_of(targets: list[Targets]) -> Outputs:
        torch.manual_seed(0)
        with torch.no_grad():
            return head(batch.copies(), batch.padding_mask, targets)

    def losses_of(model: Head, outputs: Outputs, targets: list[Targets]) -> Losses:
        torch.manual_seed(0)
        return model.loss(outputs, targets, LossContext())

    everything, partly = ([{**t, "labelled": x} for t in batch.targets] for x in (row | True, row))
    plain = losses_of(head, outputs_of(batch.targets), batch.targets)
    assert losses_of(head, outputs_of(everything), everything) == plain, "to the last bit"

    if {"labels", "panoptic"}.isdisjoint(head.required_targets) and not hasattr(head, "segments"):
        losses = losses_of(head, outputs_of(partly), partly)
        assert losses == plain, "pixels and images of an unlabelled class are unlabelled"
        return
    leaves: list[Tensor] = []
    improbable = torch.where(row, 0.0, -8.0)  # so that a softmax without the class has the same matching

    def leaf(x: Tensor) -> Tensor:
        if x.is_floating_point() and x.shape[-1] in (K, K + 1):
            x = x + F.pad(improbable, (0, x.shape[-1] - K))
            leaves.append(x := x.requires_grad_())
        return x

    def dropped(x: Tensor) -> Tensor:
        return x[..., torch.arange(x.shape[-1]) != K - 1] if x.shape[-1] in (K, K + 1) else x

    outputs = mapped(outputs_of(partly), leaf)
    losses = losses_of(head, outputs, partly)
    total(losses).backward()
    gradients = [x.grad for x in leaves if x.grad is not None and x.grad.any()]
    assert gradients and not any(gradient[..., K - 1].any() for gradient in gradients)
    expected = losses_of(smaller, mapped(outputs, dropped), batch.targets)
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)


UNWEIGHTED = {"faster_rcnn", "fcos", "kmax_deeplab", "max_deeplab"}
WEIGHTED = [n for n in OF_CLASSES if {"boxes", "labels"} <= {*registry.load("heads", CASES[n].head).required_targets}]


@pytest.mark.parametrize("name", [name for name in WEIGHTED if name not in UNWEIGHTED])
def test_class_losses_of_objects_have_their_weights(name: str):
    """What each object's weight 0 takes from the loss adds up to what all of them take; weights of 1 take nothing."""
    case = CASES[name]
    factory = functools.partial(registry.load("heads", case.head), **case.options)
    fixture = HeadFixture(factory, CHANNELS[: case.levels], STRIDES[: case.levels], case.reach)
    head, batch = fixture.build(classes=K).double().train(), fixture.batch(classes=4)
    counts = [len(target["labels"]) for target in batch.targets]

    def loss_of(weights: Tensor) -> Tensor:
        rows = zip(batch.targets, weights.split(counts), strict=True)
        targets = [{**target, "label_weights": row} for target, row in rows]
        torch.manual_seed(0)
        with torch.no_grad():
            outputs = head([x.double() for x in batch.copies()], batch.padding_mask, targets)
            return total(head.loss(outputs, targets, LossContext()))

    ones = torch.ones(sum(counts))
    plain, none = loss_of(ones), loss_of(ones - 1)
    shares = [plain - loss_of(ones - row) for row in torch.eye(len(ones))]
    assert sum(share > 1e-4 for share in shares) > 2  # RT-DETR: not of objects that no box overlaps
    torch.testing.assert_close(torch.stack(shares).sum(), plain - none, rtol=1e-3, atol=1e-3)
