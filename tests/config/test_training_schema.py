"""densevit/config/training_schema.py: keys of optim and trainer of which one is set."""

import pytest

from tests.config.conftest import message


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
