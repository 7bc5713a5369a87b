"""1x1 convolutions as matrix products, against torch's."""

import pytest
import torch
from torch import nn

from densevit.layers.fast.linear import Conv1x1


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
