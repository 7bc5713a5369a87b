"""Parameter groups, built-in optimisers, learning rates and their schedules."""

import math

import pytest
import torch
from torch import nn

import densevit
from densevit.config import OptimSection
from densevit.interfaces import Head
from densevit.model import DenseModel
from densevit.model.parameter_groups import parameter_groups
from densevit.training.loop.budget import Budget
from densevit.training.loop.lr_schedule import Schedule, schedule
from densevit.training.loop.optim import learning_rate, optimizer_of, rates_of


class Everything(Head):
    """A head with one of each kind of parameter."""

    task = "detection"
    required_targets = ()

    def __init__(self, channels) -> None:
        super().__init__(channels, (), ())
        self.linear = nn.Linear(channels[-1], 4)
        self.mix = nn.Conv2d(4, 4, 3)
        self.mixed_norm = nn.BatchNorm2d(4)
        self.queries = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.anchors = nn.Parameter(torch.rand(5, 4))
        self.token = nn.Parameter(torch.zeros(1, 1, 4))


def model_of(name: str = "swin", **options) -> DenseModel:
    backbone = densevit.create_backbone(name, **(options or {"variant": "nano"}))
    return DenseModel(backbone, {"detection": Everything(backbone.channels)}, loss_weights={"detection": "learned"})


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


def factors(steps: int, **options) -> list[float]:
    factor = schedule(OptimSection(lr=1.0, **options), steps)
    return [factor(step) for step in range(steps + 1)]


ROOT = math.sqrt(0.5)
COSINE = [1, (1 + ROOT) / 2, 0.5, (1 - ROOT) / 2, 0]


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (6, {"schedule": "constant", "warmup_steps": 3}, [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        (5, {"schedule": "constant", "warmup": 0.4}, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        (3, {"schedule": "constant"}, [1, 1, 1, 1]),
        (6, {"schedule": "cosine", "warmup_steps": 2}, [1 / 3, 2 / 3, *COSINE]),
        (4, {"schedule": "cosine", "min_lr_ratio": 0.2}, [0.2 + 0.8 * x for x in COSINE]),
        (10, {"schedule": "step", "drop_at": 0.7, "warmup_steps": 1}, [0.5] + 6 * [1] + 4 * [0.1]),
        (4, {"schedule": "step", "drop_at": 0.5, "min_lr_ratio": 0.5}, [1, 1, 0.1, 0.1, 0.1]),
        (3, {"schedule": "cosine", "warmup_steps": 9}, [0.1, 0.2, 0.3, 0.4]),  # warm-up longer than training
    ],
)
def test_schedules_by_hand(steps, options, expected):
    assert factors(steps, **options) == pytest.approx(expected)
    factor = schedule(OptimSection(lr=1.0, **options), steps)
    if options["schedule"] != "cosine" or options.get("warmup_steps", 0) < steps:
        assert factor(steps + 15) == factor(steps)  # constant after the end


@pytest.mark.parametrize(("options", "power", "warmup_steps"), [({}, 0.9, 7), ({"power": 2.5}, 2.5, 0)])
def test_poly_matches_torch(warmup_steps, options, power):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=power)
    expected = []
    for _ in range(51):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    found = factors(50 + warmup_steps, schedule="poly", warmup_steps=warmup_steps, **options)
    assert found[warmup_steps:] == pytest.approx(expected, abs=1e-9)
    floored = factors(50 + warmup_steps, schedule="poly", warmup_steps=warmup_steps, min_lr_ratio=0.2, **options)
    assert floored[warmup_steps:] == pytest.approx([0.2 + 0.8 * x for x in expected], abs=1e-9)


def test_the_scheduler_multiplies_each_group_s_rate_and_raises_weight_decay_by_half_a_cosine():
    """DINO's: 0.04 to 0.4 (Caron et al. 2021, section 3.2); groups without decay stay without."""
    rates = {"lr": 1e-2, "backbone_lr": 1e-3, "schedule": "constant", "warmup_steps": 1}
    section = OptimSection(**rates, weight_decay=0.04, final_weight_decay=0.4)
    optimizer = optimizer_of(model_of(), section, lr=1e-2)
    scheduler = Schedule(optimizer, section, Budget(4, 4, 1))
    for step, share in enumerate((*(1 - x for x in COSINE), 1)):
        half = 0.5 if step == 0 else 1
        assert sorted(group["lr"] for group in optimizer.param_groups) == [1e-3 * half] * 2 + [1e-2 * half] * 2
        decays = {group["weight_decay"] for group in optimizer.param_groups}
        assert sorted(decays) == [0, pytest.approx(0.04 + 0.36 * share)]
        optimizer.step()
        scheduler.step()
    with pytest.raises(ValueError, match="final_weight_decay is a multiple of weight_decay"):
        OptimSection(weight_decay=0.0, final_weight_decay=0.4)
