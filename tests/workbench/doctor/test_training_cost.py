"""Warnings of doctor about a budget that is too small."""

import re

import pytest

from densevit import config as configs
from densevit.training.loop.budget import Budget
from densevit_workbench.doctor.training_cost import check_budget
from tests.recorded_warnings import recorded_warnings

RECIPE = {"backbone": {"name": "resnet"}, "heads": {"d": {"name": "dpt"}}, "data": {"name": "scenes"}}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.max_epochs=4"], r"max_epochs=4 is 100 optimiser steps.*1,000 steps.*max_epochs=40 "),
        (["trainer.max_steps=20"], r"max_steps=20 is too little.*max_steps=1000 "),
        (["trainer.max_steps=20", "backbone.weights=somewhere"], r"pretrained weights.*max_steps=100 "),
        (["trainer.max_steps=20", "weights=somewhere"], None),  # continues a complete model
        (["trainer.max_steps=1000", "optim.warmup_steps=1000"], r"warmup_steps=1000 covers all 1000.*optim.warmup"),
        (["trainer.max_images=8000"], None),
        (["trainer.max_steps=100", "backbone.weights=somewhere"], None),
    ],
)
def test_too_small_budget_warns_with_the_value_to_set(overrides: list[str], expected: str | None) -> None:
    made = configs.from_mapping({**RECIPE, "trainer": {"max_images": 28000}}, overrides=overrides)
    with recorded_warnings() as said:
        check_budget(Budget.of(made.trainer, 25, 8, 1), made)
    assert not said if expected is None else re.search(expected, *said)
