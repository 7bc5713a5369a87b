"""Warnings of constant features and of a loss that does not fall."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import densevit
from densevit.interfaces import Batch, LossContext, Losses
from densevit_methods.unlabelled import Unlabelled
from tests.training.own_methods import Denoising, Pixels, Silent, config

SIGNS = ("nearly the same", "did not fall")


class Watched(Unlabelled, Silent):
    """Warns of a collapse."""


class Learning(Unlabelled, Denoising):
    """The same, of a method that learns."""


class Rising(Watched):
    """The terms are the number of the step, 0 and then 3, and 1 without noise."""

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        [loss] = super().training_step(model, batch, context).values()
        later = 3.0 if context.step > 50 else 0.0
        return {"step": 0 * loss + context.step, "later": 0 * loss + later, "still": 0 * loss + 1}


class Constant(Pixels):
    """Features that hardly differ."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [1 + 1e-3 * x for x in super().forward(images)]


def warned(method: Any, folder: Path, steps: int, recwarn: pytest.WarningsRecorder, **sections: Any) -> list[str]:
    densevit.fit(config(method, {"max_steps": steps}, **sections), run_dir=folder)
    return [str(w.message) for w in recwarn if any(sign in str(w.message) for sign in SIGNS)]


@pytest.mark.integration
def test_loss_that_does_not_fall_is_a_warning_with_its_means(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Steps are counted from 0. A training that learns has no warning."""
    [warning] = warned(Rising, tmp_path / "run", 100, recwarn)
    assert "first and the last tenth of the steps, step 4.5 and 94.5, later 0 and 3, still 1 and 1. Fix" in warning
    recwarn.clear()
    assert warned(Learning, tmp_path / "learning", 100, recwarn) == []
