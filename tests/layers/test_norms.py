import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozen

from densevit.layers.norms import FrozenBatchNorm2d, LayerNorm2d


def trained_batch_norm(channels: int) -> nn.BatchNorm2d:
    """One that has seen data, with none of its numbers at its default."""
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight, 1, 0.5)
    nn.init.normal_(norm.bias)
    for _ in range(3):
        norm(3 * torch.randn(4, channels, 5, 5) + torch.randn(channels, 1, 1))
    return norm.eval()


def test_frozen_batch_norm_takes_the_state_of_batch_norm_and_does_the_same():
    reference = trained_batch_norm(6)
    norm = FrozenBatchNorm2d(6)
    norm.load_state_dict(reference.state_dict())  # strict: num_batches_tracked is left aside
    x = torch.randn(2, 6, 7, 5)
    torch.testing.assert_close(norm(x), reference(x))


def test_frozen_batch_norm_is_torchvision_s():
    norm, reference = FrozenBatchNorm2d(6), TorchvisionFrozen(6)
    state = trained_batch_norm(6).state_dict()
    norm.load_state_dict(state)
    reference.load_state_dict(dict(state))
    assert norm.state_dict().keys() == reference.state_dict().keys()
    x = torch.randn(2, 6, 7, 5)
    torch.testing.assert_close(norm(x), reference(x))


def test_frozen_batch_norm_stands_still_in_training_and_has_nothing_to_train():
    norm = FrozenBatchNorm2d(4).train()
    norm.load_state_dict(trained_batch_norm(4).state_dict())
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(norm(x), norm.eval()(x))
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert not list(norm.parameters())


def test_frozen_batch_norm_inside_a_module_loads_strictly():
    module, reference = nn.Sequential(nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4)), nn.Sequential(nn.Conv2d(3, 4, 1), None)
    reference[1] = trained_batch_norm(4)
    state = reference.state_dict()
    module.load_state_dict(state)
    assert "1.num_batches_tracked" in state  # the caller's own state is left as it was


def test_layer_norm_2d_normalises_each_cell_over_its_channels():
    norm = LayerNorm2d(5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 3, 4)
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    expected = (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)
