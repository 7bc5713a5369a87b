"""The training budget: steps and validations."""

import pytest

from densevit.config import TrainerSection
from densevit.training.loop.budget import Budget


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
        ({"max_steps": 9, "evaluations": 2}, [4, 9]),
        ({"max_steps": 60, "evaluate_every_epochs": 1}, [25, 50, 60]),
        ({"max_epochs": 5, "evaluate_every_epochs": 2}, [50, 100, 125]),
    ],
)
def test_validation_runs_at_fractions_or_epochs_and_at_the_end(trainer: dict[str, object], expected: list[int]) -> None:
    made = budget(25, **trainer)
    assert [step for step in range(made.steps + 2) if made.validates_after(step)] == expected
    assert made.validations == len(expected)
