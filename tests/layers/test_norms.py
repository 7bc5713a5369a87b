"""Norms that torch lacks, and convolutions with frozen norms, plain and folded, beside torch's."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit.layers import norms as plain
from densevit.layers.fast import conv_norm as fast
from densevit.layers.norms import FrozenBatchNorm2d, GroupNorm
from tests.random_weights import randomise


def test_group_norm_is_torch_s_to_the_last_bit():
    norm, reference = GroupNorm(3, 6), nn.GroupNorm(3, 6)
    nn.init.normal_(norm.weight)
    reference.load_state_dict(norm.state_dict())
    for shape in ((2, 6, 5, 7), (2, 6, 1, 1), (1, 6, 1, 1)):
        x = torch.randn(shape, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        found, expected = norm(x), reference(y)
        found.square().sum().backward()
        expected.square().sum().backward()
        assert torch.equal(found, expected) and torch.equal(x.grad, y.grad)
    assert torch.equal(norm.weight.grad, reference.weight.grad)


CASES: dict[str, tuple[Callable[[], nn.Conv2d], int]] = {
    "more cells than kernel elements": (lambda: nn.Conv2d(8, 6, 1, bias=False), 9),
    "of stride 2": (lambda: nn.Conv2d(8, 6, 1, stride=2, bias=False), 12),
    "3x3, dilated, in groups": (lambda: nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2, bias=False), 10),
    "fewer cells than kernel elements": (lambda: nn.Conv2d(8, 6, 3, padding=1, bias=False), 4),
}


def frozen_and_torchs() -> tuple[FrozenBatchNorm2d, nn.BatchNorm2d]:
    torchs = randomise(nn.BatchNorm2d(6)).eval()
    frozen = FrozenBatchNorm2d(6)
    frozen.load_state_dict(torchs.state_dict())
    return frozen, torchs


@pytest.mark.parametrize("form", [plain, fast])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("relu", "residual", "autocast"), [(True, False, False), (False, True, False), (True, True, True)]
)
def test_result_and_gradients_are_those_of_batch_norm(
    form: ModuleType, name: str, relu: bool, residual: bool, autocast: bool
) -> None:
    build, side = CASES[name]
    conv = build()
    frozen, torchs = frozen_and_torchs()
    x = torch.randn(2, 8, side, side).to(memory_format=torch.channels_last).requires_grad_()
    other = torch.randn_like(conv(x)).requires_grad_() if residual else None
    inputs = [x, conv.weight, *([] if other is None else [other])]
    expected = torchs(F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups))  # type: ignore[arg-type]  # numbers
    expected = expected if other is None else expected + other
    expected = expected.relu() if relu else expected
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = form.conv_norm(conv, frozen, x, relu, None if other is None else other.to(conv(x).dtype))
    gradient = torch.randn_like(expected)
    pairs = [(found, expected)]
    pairs += zip(
        torch.autograd.grad(found, inputs, gradient.to(found.dtype)),
        torch.autograd.grad(expected, inputs, gradient),
        strict=True,
    )
    for own, wanted in pairs:
        error = (own - wanted).norm() / wanted.norm()  # a ReLU may be off by one sign in bf16
        assert error < (0.1 if autocast else 1e-6)


def test_a_folded_norm_calls_the_hooks_of_convolution_and_norm() -> None:
    """Exports and inspections read modules by hooks."""
    conv, (frozen, _), called, x = nn.Conv2d(8, 6, 1, bias=False), frozen_and_torchs(), [], torch.randn(2, 8, 16, 16)
    expected = fast.conv_norm(conv, frozen, x)
    for module in (conv, frozen):
        module.register_forward_hook(lambda module, *_: called.append(type(module)))
    torch.testing.assert_close(fast.conv_norm(conv, frozen, x), expected)
    assert called == [nn.Conv2d, FrozenBatchNorm2d]
