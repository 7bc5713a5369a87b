"""Trainings and evaluations leave the state of the process to their caller, also after an error and in each other."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import densevit
from tests.global_state import changed, disturb, global_state
from tests.training.runs import SEGMENTATION

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_drawings")]
SHORT = ["trainer.max_epochs=null", "trainer.max_steps=2"]


def during(action: Callable[[], Any]) -> Any:
    """A callback that calls a function after the first step."""
    from pytorch_lightning.callbacks import LambdaCallback

    return LambdaCallback(on_train_batch_end=lambda trainer, *_: action() if trainer.global_step == 1 else None)


CONFIG = yaml.safe_load(SEGMENTATION)


def fail() -> None:
    os.environ["PL_GLOBAL_SEED"] = "7"
    raise RuntimeError("a callback that fails")


def test_after_an_error_the_state_is_that_before(tmp_path: Path) -> None:
    model = densevit.create_model("resnet", {"surfaces": "setr"}, ["road", "sky"])
    disturb()
    before = global_state()
    with pytest.raises(RuntimeError, match="a callback that fails"):
        densevit.fit(CONFIG, SHORT, callbacks=[during(fail)], run_dir=tmp_path / "run")
    assert changed(before) == []
    with pytest.raises(densevit.ConfigError):
        densevit.fit(CONFIG, ["heads.surfaces.decoder=none"])
    with pytest.raises(densevit.DataError):
        densevit.evaluate(model, {"name": "coco", "root": str(tmp_path)})
    assert changed(before) == []
