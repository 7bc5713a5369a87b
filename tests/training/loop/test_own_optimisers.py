"""Optimisers and schedules of other packages, named as module:Class with options."""

from pathlib import Path
from typing import Any

import pytest

from densevit import config as configs
from densevit.errors import ConfigError, PluginError
from tests.training.loop.test_optim import factors


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


OWN = "torch.optim:NAdam"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"optim.name={OWN}", "optim.momentum_decai=1"], r"optim\.momentum_decai .*Did you mean 'momentum_decay'\?"),
        ([f"optim.name={__name__}:Staircase"], r"optim\.name: .*Staircase, which is not a torch\.optim\.Opt"),
        (["optim.cautious=true"], r"optim\.cautious is not an option of 'adamw'\. Options: betas, eps, amsgrad\."),
        ([f"optim.schedule={__name__}:triangel"], r"has no 'triangel'\. Did you mean 'triangle'\?"),
        ([f"optim.schedule={{name: {__name__}:triangle, peek: 1}}"], r"optim\.schedule\.peek is not .* mean 'peak'\?"),
    ],
)
def test_a_wrong_entry_is_one_line_before_data_is_read(tiny: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^(overrides|.*tiny\.yaml): .*{message}") as raised:
        configs.check_plugins(configs.load(tiny, overrides))
    assert "\n" not in str(raised.value)


def test_a_new_name_drops_the_options_of_the_old_one(tiny: Path) -> None:
    first = configs.load(tiny, [f"optim.name={OWN}", "optim.momentum_decay=0.1"])
    (tiny.parent / "first.yaml").write_text(configs.dump(first))
    assert configs.load(tiny.parent / "first.yaml") == first
    again = configs.load(tiny.parent / "first.yaml", ["optim.name=adamw"]).optim
    assert (again.options, again.lr) == ({}, 1e-3)


def test_a_function_or_a_class_is_the_schedule_after_the_warm_up() -> None:
    named = {"name": f"{__name__}:triangle", "peak": 0.25}
    expected = [0, 1, pytest.approx(2 / 3), pytest.approx(1 / 3), 0]
    assert factors(6, schedule=named, warmup_steps=2) == [pytest.approx(1 / 3), pytest.approx(2 / 3), *expected]
    assert factors(2, schedule=f"{__name__}:triangle") == [0, 1, 0]
    named = {"name": f"{__name__}:Staircase", "factors": [1.0, 0.1, 0.01]}
    assert factors(6, schedule=named) == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.01]
    with pytest.raises(PluginError, match=r"optim\.schedule: '.*:wrong' returned 'half' for step 1; the learning rate"):
        factors(3, schedule=f"{__name__}:wrong")
