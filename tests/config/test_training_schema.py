"""densevit/config/training_schema.py: keys of optim and trainer of which one is set."""

import pytest

from densevit import config
from tests.config.conftest import MINE, message, write


def test_an_override_replaces_the_other_key_that_says_the_same():
    assert config.load("mine.yaml", ["optim={schedule: cosine}"]).optim.lr == 5e-4
    per_256 = config.load("mine.yaml", ["optim.lr_per_256=1e-3"]).optim
    assert (per_256.lr, per_256.lr_per_256) == (None, 1e-3)
    assert config.load("mine.yaml", ["trainer.max_steps=5"]).trainer.max_epochs is None
    write("warm.yaml", "base: mine.yaml\noptim: {warmup: 0.1}\n")
    assert config.load("warm.yaml", ["optim.warmup_steps=5"]).optim.warmup == 0
    write("bare.yaml", MINE.replace("lr: 5e-4, ", ""))
    assert config.load("bare.yaml").optim.lr == 1e-4, "the default"


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["optim.lr_per_256=1e-3", "optim.lr=1e-3"], "lr and lr_per_256 are both set"),
        (["optim.warmup=0.1", "optim.warmup_steps=5"], "warmup and warmup_steps are both set"),
        (["trainer.max_steps=5", "trainer.max_images=5"], "set exactly one of max_images"),
        (["trainer.evaluations=2", "trainer.evaluate_every_epochs=1"], "are both set"),
        (["optim.weight_decay=0", "optim.final_weight_decay=0.4"], "a multiple of weight_decay"),
        (["optim.lr_factors={heads.*: 0}"], "greater than 0"),
    ],
)
def test_keys_that_do_not_fit_are_errors(overrides: list[str], facts: str) -> None:
    assert facts in message(*overrides)
