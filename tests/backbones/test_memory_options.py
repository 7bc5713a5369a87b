"""Activation checkpointing of each backbone changes nothing but memory: outputs, gradients and buffers."""

import copy
import inspect
from typing import Any

import pytest
import torch

import densevit
from densevit import registry

pytestmark = pytest.mark.integration
CASES: dict[str, list[dict[str, Any]]] = {
    "resnet": [{"depth": 18, "norm": norm} for norm in ("batch", "sync", "group")],
    "swin": [{"variant": "nano", "window_size": 4, "version": version} for version in (1, 2)],
    "timm": [{"model": name} for name in ("resnet18", "hgnetv2_b0", "convnext_atto")],
    "vit": [{"variant": "nano"}],
}
CHECKED = {
    *("attention_resnet", "ceit", "cvt", "cycle_mlp", "deep_vit", "local_vit", "mit", "mvit", "s2_mlp"),
    "vision_longformer",
}
"""Backbones that the check `checkpointing` of `check_backbone` compares in their own tests."""


def test_every_backbone_with_the_option_is_a_case() -> None:
    with_option = {
        name
        for name in densevit.list_backbones()
        if "checkpointing" in inspect.signature(registry.load("backbones", name)).parameters
    }
    assert with_option == CASES.keys() | CHECKED


@pytest.mark.parametrize(
    ("name", "options"),
    [pytest.param(n, o, id=f"{n}-{'-'.join(map(str, o.values()))}") for n, listed in CASES.items() for o in listed],
)
def test_checkpointing_changes_no_output_gradient_or_buffer(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = densevit.create_backbone(name, **options).train()
    checkpointed = densevit.create_backbone(name, checkpointing=True, **options).train()
    with torch.no_grad():
        for tensor in plain.parameters():
            tensor.add_(0.02 * torch.randn_like(tensor))
    checkpointed.load_state_dict(copy.deepcopy(plain.state_dict()))
    images = torch.randn(2, 3, 64, 64)
    features = []
    for backbone in (plain, checkpointed):
        torch.manual_seed(1)  # drop path
        features.append(backbone(images))
        sum(x.square().mean() for x in features[-1]).backward()
    for own, other in zip(*features, strict=True):
        assert torch.equal(own, other)
    for (key, value), other in zip(plain.state_dict().items(), checkpointed.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    gradients = [{key: p.grad for key, p in backbone.named_parameters()} for backbone in (plain, checkpointed)]
    for key, gradient in gradients[0].items():
        if gradient is None:
            assert gradients[1][key] is None
        else:
            torch.testing.assert_close(gradients[1][key], gradient, msg=key)
