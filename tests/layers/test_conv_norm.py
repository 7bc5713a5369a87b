"""Convolution with frozen batch norm, plain and folded, against torch's batch norm in evaluation mode."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit.layers import conv_norm as plain
from densevit.layers.fast import conv_norm as fast
from densevit.layers.fast.linear import Conv1x1
from densevit.layers.norms import FrozenBatchNorm2d

CASES: dict[str, tuple[Callable[[], nn.Conv2d], int]] = {
    "more cells than kernel elements": (lambda: Conv1x1(8, 6, 1, bias=False), 9),
    "of stride 2": (lambda: Conv1x1(8, 6, 1, stride=2, bias=False), 12),
    "3x3, dilated, in groups": (lambda: nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2, bias=False), 10),
    "fewer cells than kernel elements": (lambda: nn.Conv2d(8, 6, 3, padding=1, bias=False), 4),
}


def frozen_and_torchs() -> tuple[FrozenBatchNorm2d, nn.BatchNorm2d]:
    torchs = nn.BatchNorm2d(6).eval()
    for x in (torchs.weight, torchs.bias, torchs.running_mean):
        nn.init.normal_(x)  # type: ignore[arg-type]  # a tensor
    nn.init.uniform_(torchs.running_var, 0.1, 3)  # type: ignore[arg-type]  # as above
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
