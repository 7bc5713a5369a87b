"""Linear layers as convolutions and 1x1 convolutions as products, against torch's."""

import pytest
import torch
from torch import nn

from densevit.layers.fast import linear
from densevit.layers.fast.linear import Conv1x1, Linear


@pytest.fixture(params=[False, True], ids=["products", "convolutions"], autouse=True)
def as_convolution(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the CPU is one on which linear layers are computed as convolutions."""
    monkeypatch.setattr(linear, "blas_lacks_avx512", lambda: request.param)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return request.param


SHAPES = [((8,), True, torch.float32), ((2, 0, 8), True, torch.float32), ((2, 3, 4, 8), False, torch.bfloat16),
          ((300, 8), False, torch.float32), ((2, 10, 20, 8), True, torch.float64)]  # fmt: skip


@pytest.mark.parametrize(("shape", "bias", "dtype"), SHAPES)
def test_results_and_gradients_match_torch(shape, bias, dtype, as_convolution):
    """A linear layer is a convolution only on a CPU whose BLAS lacks AVX-512, in fp32, and for many tokens."""
    ours = Linear(8, 6, bias=bias, dtype=dtype)
    reference = nn.Linear(8, 6, bias=bias, dtype=dtype)
    reference.load_state_dict(ours.state_dict())
    images = torch.randn(shape, dtype=dtype)
    found, expected = images.clone().requires_grad_(), images.clone().requires_grad_()
    y, z = ours(found), reference(expected)
    torch.testing.assert_close(y, z)
    many = as_convolution and dtype == torch.float32 and images.numel() > 2000
    assert ("_Convolution" in str(y.grad_fn.next_functions[0][0].next_functions)) is many
    gradient = torch.randn_like(z)
    y.backward(gradient)
    z.backward(gradient)
    torch.testing.assert_close(found.grad, expected.grad)
    for own, other in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_tokens_of_any_strides_and_many_weights_match_torch():
    """The second layer has more weights than the convolution's gradient is fast for."""
    x = torch.randn(3, 8, 15, 14).permute(0, 2, 3, 1)
    for layer, tokens in ((Linear(8, 6), x), (Linear(800, 800), torch.randn(100, 800))):
        expected = nn.functional.linear(tokens, layer.weight, layer.bias)
        found = layer(tokens)
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous()
        weight = torch.randn_like(found)
        own, other = (torch.autograd.grad((y * weight).sum(), layer.weight) for y in (found, expected))
        torch.testing.assert_close(own, other, atol=1e-3, rtol=1e-4)


def test_autocast_and_export_use_a_linear_layer():
    ours, x = Linear(8, 6), torch.randn(2, 200, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
    targets = {str(node.target) for node in torch.export.export(ours, (x,)).graph.nodes}
    assert "aten.linear.default" in targets
    assert not [target for target in targets if "conv" in target]


@pytest.mark.parametrize(
    ("stride", "dtype", "layout"),
    [
        (1, torch.float32, torch.contiguous_format),
        (1, torch.bfloat16, torch.channels_last),
        (2, torch.bfloat16, torch.contiguous_format),
    ],
)
def test_1x1_convolution_is_exact_to_one_rounding(stride, dtype, layout):
    """Against torch's in double precision. torch's in bf16 rounds its weight gradient twice on CPUs without AVX-512."""
    error = 1e-5 if dtype == torch.float32 else 2**-8
    ours = Conv1x1(8, 6, 1, stride, bias=False).to(dtype)
    reference = nn.Conv2d(8, 6, 1, stride=stride, bias=False).double()
    reference.load_state_dict(ours.state_dict())
    images = torch.randn(2, 8, 7, 5, dtype=dtype).contiguous(memory_format=layout)
    found, expected = images.clone().requires_grad_(), images.double().requires_grad_()
    y, z = ours(found), reference(expected)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    z.backward(gradient.double())
    for own, other in ((y, z), (found.grad, expected.grad), (ours.weight.grad, reference.weight.grad)):
        torch.testing.assert_close(own.double(), other, rtol=error, atol=1e-5)


def test_the_output_may_be_modified_in_place():
    ours, x = Linear(8, 6), torch.randn(300, 8)
    reference = nn.functional.linear(x, ours.weight, ours.bias).relu()
    (expected,) = torch.autograd.grad(reference.sum(), ours.weight)
    (found,) = torch.autograd.grad(ours(x).relu_().sum(), ours.weight)
    torch.testing.assert_close(found, expected)
