"""Norms that torch lacks, beside torch's."""

import pytest
import torch
from torch import distributed, nn

from densevit.layers.norms import FrozenBatchNorm2d, GroupNorm, SyncBatchNorm2d


def trained_batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with non-default statistics and affine parameters."""
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight, 1, 0.5)
    nn.init.normal_(norm.bias)
    for _ in range(3):
        norm(3 * torch.randn(4, channels, 5, 5) + torch.randn(channels, 1, 1))
    return norm.eval()


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


@pytest.mark.parametrize(
    ("layout", "dtype"), [(torch.contiguous_format, torch.float32), (torch.channels_last, torch.bfloat16)], ids=str
)
def test_frozen_batch_norm_has_the_gradient_of_batch_norm_in_any_layout_and_precision(layout, dtype):
    norm, reference = FrozenBatchNorm2d(6), trained_batch_norm(6).double()
    norm.load_state_dict(reference.state_dict())
    own = torch.randn(2, 6, 7, 5, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    other = own.detach().double().requires_grad_()
    y, z = norm(own), reference(other)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    weights = torch.randn_like(z)
    (y.double() * weights).sum().backward()
    (z * weights).sum().backward()
    tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(y.double(), z, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(own.grad.double(), other.grad, atol=tolerance, rtol=tolerance)


@pytest.fixture
def process_group(tmp_path):
    """A process group of size 1."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_synchronised_batch_norm_on_a_cpu_is_batch_norm_in_a_process_group_too(process_group):
    x = torch.randn(2, 4, 5, 3)
    with pytest.raises(ValueError, match="GPU"):  # the reason for this class
        nn.SyncBatchNorm(4)(x)
    norm, reference = SyncBatchNorm2d(4), nn.BatchNorm2d(4)
    assert torch.equal(norm(x), reference(x))
    for key, value in reference.state_dict().items():
        assert torch.equal(norm.state_dict()[key], value)
