import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import densevit
from densevit import registry
from densevit.config import OptimSection
from densevit.errors import PluginError
from densevit.interfaces import Head
from densevit.model import DenseModel
from densevit.model.parameter_groups import parameter_groups
from densevit.training.loop.lr_schedule import Schedule, schedule
from densevit.training.loop.optim import learning_rate, optimizer_of, rates_of


class Everything(Head):
    """A head with one of each kind of parameter."""

    task = "detection"
    needs = ()

    def __init__(self, channels) -> None:
        super().__init__(channels, (), ())
        self.linear = nn.Linear(channels[-1], 4)
        self.mix = nn.Conv2d(4, 4, 3)
        self.mixed_norm = nn.BatchNorm2d(4)
        self.queries = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.anchors = nn.Parameter(torch.rand(5, 4))
        self.token = nn.Parameter(torch.zeros(1, 1, 4))


def model_of(**options) -> DenseModel:
    backbone = densevit.create_backbone("swin", variant="nano", **options)
    return DenseModel(backbone, {"detection": Everything(backbone.channels)})


RATES = OptimSection(backbone_lr=1e-4, weight_decay=0.05)


def names(model: DenseModel, group: dict) -> set[str]:
    by_id = {id(p): name for name, p in model.named_parameters()}
    return {by_id[id(p)] for p in group["params"]}


BLOCK_DECAYED = {"attention.qkv.weight", "attention.output.weight", "mlp.expand.weight", "mlp.contract.weight"}
BLOCK_FREE = {
    "norm1.weight",
    "norm1.bias",
    "norm2.weight",
    "norm2.bias",
    "attention.qkv.bias",
    "attention.output.bias",
    "attention.relative_position_bias_table",
    "mlp.expand.bias",
    "mlp.contract.bias",
}
BLOCKS = ("0.0", "1.1", "2.1", "2.2", "2.3", "3.1")
MERGINGS = ("1.0", "2.0", "3.0")
BACKBONE_DECAYED = {f"backbone.stages.{block}.{name}" for block in BLOCKS for name in BLOCK_DECAYED} | {
    *(f"backbone.stages.{merging}.reduction.weight" for merging in MERGINGS),
    "backbone.patch_embed.weight",
}
BACKBONE_FREE = {f"backbone.stages.{block}.{name}" for block in BLOCKS for name in BLOCK_FREE} | {
    *(f"backbone.stages.{merging}.norm.{name}" for merging in MERGINGS for name in ("weight", "bias")),
    *(f"backbone.feature_norms.{i}.{name}" for i in range(4) for name in ("weight", "bias")),
    *("backbone.patch_embed.bias", "backbone.patch_norm.weight", "backbone.patch_norm.bias"),
}
HEAD_DECAYED = {
    f"heads.detection.{name}"
    for name in ("linear.weight", "mix.weight", "attention.in_proj_weight", "attention.out_proj.weight")
}
HEAD_FREE = {
    f"heads.detection.{name}"
    for name in (
        "linear.bias",
        "mix.bias",
        "mixed_norm.weight",
        "mixed_norm.bias",
        "queries.weight",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "anchors",
        "token",
    )
}


def test_groups_have_the_expected_decay_and_rates():
    model = model_of()
    groups = parameter_groups(rates_of(model, RATES, lr=1e-3))
    found = {(group["lr"], group["weight_decay"]): names(model, group) for group in groups}
    assert found == {
        (1e-4, 0.05): BACKBONE_DECAYED,
        (1e-4, 0.0): BACKBONE_FREE,
        (1e-3, 0.05): HEAD_DECAYED,
        (1e-3, 0.0): HEAD_FREE,
    }


def test_backbone_lr_defaults_to_lr():
    model = model_of()
    groups = parameter_groups(rates_of(model, OptimSection(weight_decay=0.05), lr=1e-3))
    found = {(group["lr"], group["weight_decay"]): names(model, group) for group in groups}
    assert found == {(1e-3, 0.05): BACKBONE_DECAYED | HEAD_DECAYED, (1e-3, 0.0): BACKBONE_FREE | HEAD_FREE}


def test_frozen_parameters_are_in_no_group():
    model = model_of()
    model.backbone.requires_grad_(False)
    groups = parameter_groups(rates_of(model, RATES, lr=1e-3))
    assert set().union(*(names(model, group) for group in groups)) == HEAD_DECAYED | HEAD_FREE


def test_resnet_convolutions_decay_and_norms_do_not():
    backbone = densevit.create_backbone("resnet", depth=18, frozen_stages=1)
    model = DenseModel(backbone, {"detection": Everything(backbone.channels)})
    groups = parameter_groups(rates_of(model, RATES, lr=1e-3))
    decayed, free = (names(model, g) for d in (0.05, 0.0) for g in groups if (g["lr"], g["weight_decay"]) == (1e-4, d))
    convolutions = {
        f"backbone.layer{i}.{j}.{name}.weight" for i in (1, 2, 3, 4) for j in (0, 1) for name in ("conv1", "conv2")
    } | {f"backbone.layer{i}.0.downsample.0.weight" for i in (2, 3, 4)}
    assert decayed == convolutions
    assert len(free) == 2 * len(convolutions)
    assert all(".bn" in name or ".downsample.1." in name for name in free)


@pytest.mark.parametrize("backbone_lr", [None, 3e-5])
@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_default_groups_match_plain_ones_exactly(backbone_lr, frozen_stages):
    """Two rates and two decays, in the order of their first parameters."""
    backbone = densevit.create_backbone("resnet", depth=18, frozen_stages=frozen_stages)
    model = DenseModel(backbone, {"detection": Everything(backbone.channels)}, weights={"detection": "learned"})
    lr = 0.1 * 7 / 3  # of many digits
    expected: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = backbone_lr if backbone_lr is not None and name.startswith("backbone.") else lr
            plain = name.endswith("weight") and parameter.ndim >= 2 and not name.endswith("queries.weight")
            expected.setdefault((rate, 0.03 if plain else 0.0), []).append(parameter)
    found = parameter_groups(rates_of(model, OptimSection(backbone_lr=backbone_lr, weight_decay=0.03), lr))
    assert [(group["lr"], group["weight_decay"]) for group in found] == list(expected)
    assert [[id(p) for p in group["params"]] for group in found] == [[id(p) for p in g] for g in expected.values()]


# ---- optimisers ----


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_optimiser_is_selected_by_name(name, kind):
    options = {"momentum": 0.8} if name == "sgd" else {"betas": (0.8, 0.95)}
    section = OptimSection(name=name, lr=2e-3, backbone_lr=1e-4, weight_decay=0.01, **options)
    optimizer = optimizer_of(model_of(), section, lr=2e-3)
    assert type(optimizer).__mro__[1] is kind and optimizer.defaults["fused"]
    found = sorted((group["lr"], group["weight_decay"]) for group in optimizer.param_groups)
    assert found == [(1e-4, 0), (1e-4, 0.01), (2e-3, 0), (2e-3, 0.01)]
    for group in optimizer.param_groups:
        assert options.items() <= group.items()


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_the_options_of_an_optimiser_are_its_own(name):
    assert OptimSection(name=name).options == {}
    for option in ("momentum", "matrices", "betas"):
        has = option in {"sgd": ("momentum",), "muon": ("matrices", "betas")}.get(name, ("betas",))
        value = {"momentum": 0.5, "matrices": "convolutions", "betas": [0.8, 0.9]}[option]
        message = rf"optim\.{option} is not an option of '{name}'.*Options: "
        with nullcontext() if has else pytest.raises(PluginError, match=message):
            assert option in registry.check_options("optimizers", name, {option: value}, "optim")


@pytest.mark.parametrize("gradient_scaling", [True, False])
def test_adamw_step_matches_the_paper(gradient_scaling):
    """Decoupled decay, then lr times the bias-corrected mean over the root mean square: lr in the first step."""
    model = model_of()
    optimizer = optimizer_of(model, OptimSection(lr=0.1, weight_decay=0.5), lr=0.1, gradient_scaling=gradient_scaling)
    assert optimizer.defaults["fused"] is not gradient_scaling
    weight, bias = model.heads["detection"].linear.weight, model.heads["detection"].linear.bias
    before = weight.detach().clone(), bias.detach().clone()
    weight.grad, bias.grad = torch.full_like(weight, 3.0), torch.full_like(bias, -7.0)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before[0] * (1 - 0.1 * 0.5) - 0.1)
    torch.testing.assert_close(bias.detach(), before[1] + 0.1)


# ---- learning rates ----


def test_learning_rate_is_absolute_or_scaled_by_batch_size():
    assert learning_rate(OptimSection(lr=3e-4), 64) == 3e-4
    assert learning_rate(OptimSection(), 64) == 1e-4
    assert learning_rate(OptimSection(lr_per_256=1e-3), 256) == 1e-3
    assert learning_rate(OptimSection(lr_per_256=1e-3), 64) == 2.5e-4
    assert learning_rate(OptimSection(lr_per_256=1e-3), 1024) == 4e-3


def factors(steps: int, **options) -> list[float]:
    factor = schedule(OptimSection(lr=1.0, **options), steps)
    return [factor(step) for step in range(steps + 1)]


def test_constant_schedule_after_a_linear_warm_up():
    assert factors(6, schedule="constant", warmup_steps=3) == [0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert factors(3, schedule="constant") == [1, 1, 1, 1]


def test_cosine_schedule_by_hand():
    root = math.sqrt(0.5)
    expected = [1, (1 + root) / 2, 0.5, (1 - root) / 2, 0]
    assert factors(4, schedule="cosine") == pytest.approx(expected)
    assert factors(6, schedule="cosine", warmup_steps=2) == pytest.approx([1 / 3, 2 / 3, *expected])


def test_cosine_ends_at_min_ratio():
    root = math.sqrt(0.5)
    expected = [1, 0.2 + 0.8 * (1 + root) / 2, 0.6, 0.2 + 0.8 * (1 - root) / 2, 0.2]
    assert factors(4, schedule="cosine", min_lr_ratio=0.2) == pytest.approx(expected)
    assert factors(4, schedule="cosine", min_lr_ratio=1.0) == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(("options", "power"), [({}, 0.9), ({"power": 1.0}, 1.0), ({"power": 2.5}, 2.5)])
@pytest.mark.parametrize("warmup_steps", [0, 7])
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
    assert found[:warmup_steps] == pytest.approx([(step + 1) / (warmup_steps + 1) for step in range(warmup_steps)])


def test_poly_with_min_ratio_matches_mmengine():
    """mmengine's PolyParamScheduler is a recursion between lr and its eta_min of 1e-4."""
    lr, eta_min, steps = 0.01, 1e-4, 40
    expected = [lr]
    for step in range(1, steps + 1):
        left = (1 - 1 / (steps - step + 1)) ** 0.9
        expected.append((expected[-1] - eta_min) * left + eta_min)
    found = [lr * factor for factor in factors(steps, schedule="poly", min_lr_ratio=eta_min / lr)]
    assert found == pytest.approx(expected)


def test_step_divides_by_ten_at_its_fraction():
    assert factors(10, schedule="step", drop_at=0.7, warmup_steps=1) == [0.5] + 6 * [1] + 4 * [0.1]
    assert factors(4, schedule="step", drop_at=0.5, min_lr_ratio=0.5) == [1, 1, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("name", ["cosine", "poly", "step", "constant"])
def test_factor_is_constant_after_the_end(name):
    factor = schedule(OptimSection(lr=1.0, schedule=name, min_lr_ratio=0.25), 10)
    assert factor(25) == factor(10) == {"cosine": 0.25, "poly": 0.25, "step": 0.1, "constant": 1.0}[name]


def test_warm_up_longer_than_training_increases_throughout():
    assert factors(3, schedule="cosine", warmup_steps=9) == [0.1, 0.2, 0.3, 0.4]


def test_scheduler_multiplies_each_group_s_rate():
    section = OptimSection(lr=1e-2, backbone_lr=1e-3, schedule="constant", warmup_steps=1)
    optimizer = optimizer_of(model_of(), section, lr=1e-2)
    scheduler = Schedule(optimizer, section, 4)
    assert sorted(group["lr"] for group in optimizer.param_groups) == [5e-4, 5e-4, 5e-3, 5e-3]
    optimizer.step()
    scheduler.step()
    assert sorted(group["lr"] for group in optimizer.param_groups) == [1e-3, 1e-3, 1e-2, 1e-2]


def test_weight_decay_rises_by_half_a_cosine():
    """DINO's: 0.04 to 0.4 (Caron et al. 2021, section 3.2); groups without decay stay without."""
    section = OptimSection(lr=1e-2, weight_decay=0.04, final_weight_decay=0.4)
    optimizer = optimizer_of(model_of(), section, lr=1e-2)
    scheduler = Schedule(optimizer, section, 4)
    root = math.sqrt(0.5)
    for share in (0, (1 - root) / 2, 0.5, (1 + root) / 2, 1, 1):
        decays = {group["weight_decay"] for group in optimizer.param_groups}
        assert sorted(decays) == [0, pytest.approx(0.04 + 0.36 * share)]
        optimizer.step()
        scheduler.step()
    scheduler.restart([{**group, "lr": 1e-3, "weight_decay": 0.02} for group in optimizer.param_groups])
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.2])
    assert "decay_factor" not in scheduler.state_dict()


def test_a_final_weight_decay_needs_one_at_the_start():
    with pytest.raises(ValueError, match="final_weight_decay needs a weight_decay above 0"):
        OptimSection(weight_decay=0.0, final_weight_decay=0.4)
