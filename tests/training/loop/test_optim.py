"""Parameter groups, built-in optimisers, learning rates and their schedules."""

import pytest
import torch
from torch import nn

import densevit
from densevit.config import OptimSection
from densevit.model import DenseModel
from densevit.model.parameter_groups import parameter_groups
from densevit.training.loop.optim import learning_rate, optimizer_of, rates_of
from tests.small_models import StandIn


def model_of(name: str = "swin", **options) -> DenseModel:
    """With a head that has one of each kind of parameter."""
    backbone = densevit.create_backbone(name, **(options or {"variant": "nano"}))
    head = StandIn(
        linear=nn.Linear(backbone.channels[-1], 4),
        mix=nn.Conv2d(4, 4, 3),
        mixed_norm=nn.BatchNorm2d(4),
        queries=nn.Embedding(5, 4),
        attention=nn.MultiheadAttention(4, 2),
        anchors=nn.Parameter(torch.rand(5, 4)),
        token=nn.Parameter(torch.zeros(1, 1, 4)),
    )
    return DenseModel(backbone, {"detection": head}, loss_weights={"detection": "learned"})


# The ends of the names of parameters with decay, of all others.
DECAYED = {
    "swin": tuple(f"{name}.weight" for name in ("qkv", "output", "expand", "contract", "reduction", "patch_embed")),
    "resnet": ("conv1.weight", "conv2.weight", "downsample.0.weight"),
}
HEAD_DECAYED = ("linear.weight", "mix.weight", "in_proj_weight", "out_proj.weight")


@pytest.mark.parametrize(
    ("backbone", "options", "backbone_lr"),
    [("swin", {"variant": "nano"}, None),
     ("resnet", {"depth": 18, "frozen_stages": 1}, 3e-5)],
)  # fmt: skip
def test_groups_have_two_rates_and_two_decays_in_the_order_of_their_first_parameters(backbone, options, backbone_lr):
    """Biases, norms, embeddings, queries and tokens do not decay; frozen parameters are in no group."""
    model, lr = model_of(backbone, **options), 0.1 * 7 / 3  # of many digits
    expected: dict[tuple[float, float], list[str]] = {}
    for name, parameter in model.named_parameters():
        is_backbone = name.startswith("backbone.")
        decays = name.endswith(DECAYED[backbone] if is_backbone else HEAD_DECAYED)
        if parameter.requires_grad:
            rate = backbone_lr if backbone_lr is not None and is_backbone else lr
            expected.setdefault((rate, 0.03 if decays else 0.0), []).append(name)
    assert len(expected) == (2 if backbone_lr is None else 4)
    names = {id(p): name for name, p in model.named_parameters()}
    found = parameter_groups(rates_of(model, OptimSection(backbone_lr=backbone_lr, weight_decay=0.03), lr))
    assert [(group["lr"], group["weight_decay"]) for group in found] == list(expected)
    assert [[names[id(p)] for p in group["params"]] for group in found] == list(expected.values())


# ---- optimisers ----


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.95), "fused": True}),
        ("adam", torch.optim.Adam, {"betas": (0.8, 0.95), "fused": True}),
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "fused": True}),
        ("torch.optim:NAdam", torch.optim.NAdam, {"betas": (0.5, 0.6), "decoupled_weight_decay": True}),
    ],
)
def test_an_optimiser_gets_the_groups_and_its_options(name, kind, options):
    given = {key: value for key, value in options.items() if key != "fused"}
    section = OptimSection(name=name, lr=2e-3, backbone_lr=1e-4, weight_decay=0.01, **given)
    optimizer = optimizer_of(model_of(), section, lr=2e-3)
    assert isinstance(optimizer, kind) and options.items() <= optimizer.defaults.items()
    scaled = optimizer_of(model_of(), section, lr=2e-3, gradient_scaling=True)  # Lightning unscales gradients itself
    assert not scaled.defaults.get("fused")
    found = sorted((group["lr"], group["weight_decay"]) for group in optimizer.param_groups)
    assert found == [(1e-4, 0), (1e-4, 0.01), (2e-3, 0), (2e-3, 0.01)]
    for group in optimizer.param_groups:
        assert given.items() <= group.items()


# ---- learning rates ----


def test_learning_rate_is_absolute_or_scaled_by_batch_size():
    assert (learning_rate(OptimSection(lr=3e-4), 64), learning_rate(OptimSection(), 64)) == (3e-4, 1e-4)
    assert [learning_rate(OptimSection(lr_per_256=1e-3), size) for size in (64, 256, 1024)] == [2.5e-4, 1e-3, 4e-3]
