"""Optimisers and schedules of other packages, named as module:Class with options."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from densevit import config as configs
from densevit.config import OptimSection
from densevit.errors import ConfigError, PluginError
from densevit.training.loop.lr_schedule import schedule
from densevit.training.loop.optim import optimizer_of
from tests.training.loop.test_optim import model_of
from tests.training.run.test_run import TINY
from tests.training.runs import resume, train


class SignMomentum(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, algorithm 2)."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        cautious: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "cautious": cautious})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                update = torch.lerp(p.grad, momentum, group["betas"][0]).sign()
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update)
                momentum.lerp_(p.grad, 1 - group["betas"][1])
        return loss


class WithoutDecay(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})


def triangle(step: int, steps: int, peak: float = 0.5) -> float:
    progress = step / steps
    return progress / peak if progress < peak else (1 - progress) / (1 - peak)


class Staircase:
    def __init__(self, factors: tuple[float, ...] = (1.0, 0.5)) -> None:
        self.factors = factors

    def __call__(self, step: int, steps: int) -> float:
        return self.factors[min(len(self.factors) - 1, step * len(self.factors) // steps)]


def wrong(step: int, steps: int) -> Any:
    return "half" if step == 1 else 1.0


OWN = f"{__name__}:SignMomentum"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


# ---- optimisers ----


def test_another_class_gets_the_groups_and_its_options() -> None:
    section = OptimSection(name=OWN, lr=1e-3, backbone_lr=1e-4, weight_decay=0.05, cautious=True)
    optimizer = optimizer_of(model_of(), section, lr=1e-3)
    assert type(optimizer) is SignMomentum
    found = sorted((group["lr"], group["weight_decay"]) for group in optimizer.param_groups)
    assert found == [(1e-4, 0), (1e-4, 0.05), (1e-3, 0), (1e-3, 0.05)]
    assert {(group["betas"], group["cautious"]) for group in optimizer.param_groups} == {((0.9, 0.99), True)}
    given = optimizer_of(model_of(), OptimSection(name=OWN, betas=(0.5, 0.6)), lr=1e-3)
    assert given.param_groups[0]["betas"] == (0.5, 0.6)


def test_steps_are_those_of_the_class_itself() -> None:
    """torch's RAdam by name, with an option, against the same class built by hand."""
    model, reference = model_of(), model_of()
    reference.load_state_dict(model.state_dict())
    section = OptimSection(name="torch.optim:RAdam", lr=0.01, weight_decay=0.1, decoupled_weight_decay=True)
    optimizer = optimizer_of(model, section, lr=0.01)
    decayed = [p for p in reference.parameters() if p.ndim >= 2]
    name = {id(p): n for n, p in reference.named_parameters()}
    decayed = [p for p in decayed if name[id(p)].endswith("weight") and not name[id(p)].endswith("queries.weight")]
    rest = [p for p in reference.parameters() if not any(p is q for q in decayed)]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    by_hand = torch.optim.RAdam(groups, lr=0.01, decoupled_weight_decay=True)
    for _ in range(7):  # rectified from the sixth step on
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            ours.grad = torch.randn_like(ours)
            theirs.grad = ours.grad.clone()
        optimizer.step()
        by_hand.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [f"optim.name={OWN}", "optim.cautius=true"],
            r"optim\.cautius is not an option of .*Did you mean 'cautious'\?",
        ),
        ([f"optim.name={OWN}", "optim.cautious=3"], r"optim\.cautious should be a valid boolean.*, not 3"),
        (
            ["optim.name=no_such:Lion"],
            r"optim\.name: The optimiser 'no_such:Lion' cannot be imported: there is no module",
        ),
        (
            [f"optim.name={__name__}:Staircase"],
            r"optim\.name: .* is the class Staircase, which is not a torch\.optim\.Opt",
        ),
        (
            [f"optim.name={__name__}:WithoutDecay"],
            r"optim\.weight_decay is 0\.0001, but .* Fix: set optim\.weight_decay=0",
        ),
        (["optim.cautious=true"], r"optim\.cautious is not an option of 'adamw'\. Options: betas, eps, amsgrad\."),
        (["optim.schedule=no_such:f"], r"optim\.schedule\.name: The schedule .* there is no module 'no_such'"),
        ([f"optim.schedule={__name__}:triangel"], r"has no 'triangel'\. Did you mean 'triangle'\?"),
        ([f"optim.schedule={{name: {__name__}:triangle, peek: 1}}"], r"optim\.schedule\.peek is not .* mean 'peak'\?"),
        ([f"optim.schedule={{name: {__name__}:triangle, peak: x}}"], r"optim\.schedule\.peak should be a valid number"),
        (
            ["optim.schedule=math:cos"],
            r"optim\.schedule\.name: 'math:cos': it must take step, steps first, by position",
        ),
        (["optim.schedule=torch.optim.lr_scheduler:StepLR"], r"cannot be called with a step\. Fix: write a function"),
        (["optim.schedule={peak: 1}"], r"optim\.schedule: its name is missing"),
    ],
)
def test_a_wrong_entry_is_one_line_before_data_is_read(tiny: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^(command line|.*tiny\.yaml): .*{message}") as raised:
        configs.check_plugins(configs.load(tiny, overrides))
    assert "\n" not in str(raised.value)


def test_a_new_name_drops_the_options_of_the_old_one(tiny: Path) -> None:
    first = configs.load(tiny, [f"optim.name={OWN}", "optim.cautious=true"])
    (tiny.parent / "first.yaml").write_text(configs.dump(first))
    assert configs.load(tiny.parent / "first.yaml") == first
    again = configs.load(tiny.parent / "first.yaml", ["optim.name=adamw"]).optim
    assert (again.options, again.lr) == ({}, 1e-3)


# ---- schedules ----


def factors(steps: int, **options: Any) -> list[float]:
    factor = schedule(OptimSection(lr=1.0, **options), steps)
    return [factor(step) for step in range(steps + 1)]


def test_a_function_follows_the_warm_up() -> None:
    named = {"name": f"{__name__}:triangle", "peak": 0.25}
    assert factors(4, schedule=named) == [0, 1, pytest.approx(2 / 3), pytest.approx(1 / 3), 0]
    assert factors(6, schedule=named, warmup_steps=2)[:4] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 0, 1]
    assert factors(2, schedule=f"{__name__}:triangle") == [0, 1, 0]


def test_a_class_is_built_with_its_options() -> None:
    named = {"name": f"{__name__}:Staircase", "factors": [1.0, 0.1, 0.01]}
    assert factors(6, schedule=named) == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.01]


def test_a_cosine_by_name_is_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def cosine(step: int, steps: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / steps))

    monkeypatch.setattr(f"{__name__}.triangle", cosine)
    named = factors(9, schedule=f"{__name__}:triangle", warmup=0.2)
    assert named == pytest.approx(factors(9, schedule="cosine", warmup=0.2))


def test_what_is_no_factor_is_one_line() -> None:
    with pytest.raises(PluginError, match=r"optim\.schedule: '.*:wrong' returned 'half' for step 1; the factor on the"):
        factors(3, schedule=f"{__name__}:wrong")


# ---- runs ----


@pytest.mark.integration
def test_a_run_with_both_resumes_to_the_last_bit(tiny: Path, tmp_path: Path) -> None:
    named = [
        f"optim.name={OWN}",
        "optim.cautious=true",
        f"optim.schedule={{name: {__name__}:Staircase, factors: [1.0]}}",
    ]
    whole = train(configs.load(tiny, [*named, "trainer.max_steps=4"]), tmp_path / "whole")
    parts = train(configs.load(tiny, [*named, "trainer.max_steps=2"]), tmp_path / "parts")
    resume(parts, ["trainer.max_steps=4"])
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, parts)]
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key
    resume(parts, ["trainer.max_steps=5", "optim.betas=[0.5, 0.6]", "optim.cautious=false"])  # take effect at once
    groups = torch.load(parts / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert {(tuple(group["betas"]), group["cautious"]) for group in groups} == {((0.5, 0.6), False)}


def test_a_model_of_plain_parameters_trains_with_another_optimiser() -> None:
    """A step of Lion from zero momentum is lr against the gradient's sign, after the decay."""
    model = model_of()
    optimizer = optimizer_of(model, OptimSection(name=OWN, weight_decay=0.5), lr=0.1)
    weight: nn.Parameter = model.heads["detection"].linear.weight
    before = weight.detach().clone()
    weight.grad = torch.full_like(weight, -3.0)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.5) + 0.1)
