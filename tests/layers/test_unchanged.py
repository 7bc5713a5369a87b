"""densevit/layers/unchanged.py: modes, tensors, gradients, attributes and hooks after an error in a context."""

from typing import Any

import pytest
import torch
from torch import nn

from densevit.layers.unchanged import evaluation_mode, unchanged


class Sampled(nn.Linear):
    """Samples in training mode, as torchvision's Faster R-CNN."""

    samples = 256

    def train(self, mode: bool = True) -> "Sampled":
        super().train(mode)
        self.samples = 256 if mode else 0
        return self


def parts() -> nn.Sequential:
    """In training mode, but for the first part."""
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(Sampled(2, 2), nn.Dropout()))
    module[0].eval()
    return module


@pytest.mark.parametrize("training", [True, False])
def test_each_part_gets_its_mode_back(training: bool) -> None:
    module = parts()
    module.train(training)
    module[1][0].train()
    module[1][1].eval()
    with pytest.raises(KeyError), evaluation_mode(module):
        assert not any(part.training for part in module.modules()) and module[1][0].samples == 0
        raise KeyError
    assert [part.training for part in module.modules()] == [training, training, training, True, False]
    assert module[1][0].samples == 256


def test_a_module_in_evaluation_mode_is_not_touched() -> None:
    """Other threads may predict with it."""
    module = parts().eval()
    module[1][0].samples = 7
    with evaluation_mode(module):
        assert module[1][0].samples == 7
    assert module[1][0].samples == 7
    with evaluation_mode("an exported file"), unchanged("an exported file"):
        pass


def keep(*_: Any) -> None:
    """A hook."""


def test_a_module_is_as_before() -> None:
    module = parts()
    module(torch.randn(4, 2)).sum().backward()
    module[0].weight.requires_grad_(False)
    module[0].register_forward_hook(keep)
    weight, gradient, statistics = module[1][0].weight, module[1][0].weight.grad, module[0].running_mean
    values = [weight.detach().clone(), gradient.clone(), statistics.clone()]
    pointer = weight.data_ptr()
    with pytest.raises(KeyError), unchanged(module):
        assert weight.grad is None and not module.training
        module.train()(torch.randn(4, 2)).mean().backward()
        module.requires_grad_(True).half()
        module[0]._forward_hooks.clear()
        module[0].register_forward_pre_hook(keep)
        module[1][0].seen = "a batch"
        module[1][0].bias = None
        module[1].append(nn.ReLU())
        raise KeyError
    assert module[1][0].weight is weight and weight.grad is gradient and module[0].running_mean is statistics
    for x, expected in zip((weight, gradient, statistics), values, strict=True):
        torch.testing.assert_close(x.detach(), expected, rtol=0, atol=0)
    assert weight.data_ptr() == pointer and not module[0].weight.requires_grad and weight.requires_grad
    assert [*module[0]._forward_hooks.values()] == [keep] and not module[0]._forward_pre_hooks
    assert "seen" not in vars(module[1][0]) and module[1][0].bias is not None and len(module[1]) == 2
    assert [part.training for part in module.modules()] == [True, False, True, True, True]
