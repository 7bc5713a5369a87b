"""The training budget: steps, validations, and warnings if it is too small."""

import re
import warnings

import pytest

from densevit import config as configs
from densevit.config import Config, TrainerSection
from densevit.errors import ConfigError
from densevit.training.loop.budget import Budget
from densevit.training.run.config_checks import check_budget

RECIPE = {"backbone": {"name": "resnet"}, "heads": {"d": {"name": "dpt"}}, "data": {"name": "scenes"}}


def config(*overrides: str, **sections: object) -> Config:
    return configs.from_mapping({**RECIPE, "trainer": {"max_images": 28000}, **sections}, overrides=overrides)


def budget(batches_per_epoch: int = 25, batch_size: int = 8, world_size: int = 1, **trainer: object) -> Budget:
    return Budget.of(TrainerSection.model_validate(trainer), batches_per_epoch, batch_size, world_size)


def test_images_and_steps_do_not_depend_on_the_size_of_the_data_set() -> None:
    for batches in (1, 875):
        assert budget(batches, max_images=28000).steps == 3500
        assert budget(batches, max_images=28000, accumulate=2).steps == 1750
        assert budget(batches, max_images=28000, world_size=2).steps == 1750
        assert budget(batches, max_steps=70, world_size=2).steps == 70
        assert budget(batches, max_epochs=4).steps == 4 * batches
    assert budget(25, max_epochs=3, accumulate=4).steps == 3 * 7  # the last step of an epoch has one batch


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"max_steps": 10}, [2, 5, 8, 10]),
        ({"max_steps": 3}, [1, 2, 3]),
        ({"max_steps": 1}, [1]),
        ({"max_steps": 9, "evaluate_every": 0.5}, [4, 9]),
        ({"max_steps": 60, "evaluate_every": 1}, [25, 50, 60]),
        ({"max_epochs": 5, "evaluate_every": 2}, [50, 100, 125]),
    ],
)
def test_validation_runs_at_fractions_or_epochs_and_at_the_end(trainer: dict[str, object], expected: list[int]) -> None:
    made = budget(25, **trainer)
    assert [step for step in range(made.steps + 2) if made.validates_after(step)] == expected
    assert made.validations == len(expected)


def test_two_budgets_raise_and_an_override_replaces() -> None:
    assert config("trainer.max_steps=5").trainer.max_images is None
    assert config("optim.warmup_steps=5", optim={"warmup": 0.1}).optim.warmup == 0
    for overrides, said in (
        (["trainer.max_steps=5", "trainer.max_images=5"], "max_images and max_steps are both given"),
        (["optim.warmup=0.1", "optim.warmup_steps=5"], "warmup and warmup_steps are both given"),
        (["trainer.evaluate_every=1.5"], "below 1, or a whole number of epochs, not 1.5"),
    ):
        with pytest.raises(ConfigError, match=said):
            config(*overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.max_epochs=4"], r"max_epochs=4 is 100 optimiser steps.*1,000 steps.*max_epochs=40 "),
        (["trainer.max_steps=20"], r"max_steps=20 is too little.*max_steps=1000 "),
        (["trainer.max_images=400"], r"max_images=400 is 50 optimiser steps.*max_images=8000 "),
        (["trainer.max_steps=20", "weights=somewhere"], r"pretrained weights.*max_steps=100 "),
        (["trainer.max_steps=1000", "optim.warmup_steps=1000"], r"warmup_steps=1000 is all of the 1000.*optim.warmup"),
        (["trainer.max_images=8000"], None),
        (["trainer.max_steps=100", "backbone.weights=somewhere"], None),
    ],
)
def test_too_small_budget_warns_with_the_value_to_set(overrides: list[str], expected: str | None) -> None:
    made = config(*overrides)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_budget(Budget.of(made.trainer, 25, 8, 1), made)
    said = [str(warning.message) for warning in caught]
    assert not said if expected is None else re.search(expected, *said)
