"""Callbacks and loggers that a config names, and how they are checked, restored and placed."""

import json
from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit import config as configs
from densevit.config import TrainerSection
from densevit.errors import ConfigError, PluginError
from tests.training.runs import rows

STOPPING = "{name: pytorch_lightning.callbacks:EarlyStopping, monitor: detection/AP, mode: max, patience: 2"


def section(**keys: Any) -> TrainerSection:
    return TrainerSection(max_steps=1, **keys)


# ---- checks before anything is read ----


def test_callbacks_are_built_and_checked_before_training() -> None:
    from pytorch_lightning.callbacks import EarlyStopping

    from densevit.training.run.callbacks_and_loggers import build_callbacks, check_callbacks
    from tests.training.own_callbacks import Seen, Unreadable

    named = {"name": "pytorch_lightning.callbacks:EarlyStopping", "monitor": "a", "mode": "max"}
    [callback] = build_callbacks(section(callbacks=[named]))
    assert isinstance(callback, EarlyStopping) and callback.mode == "max"
    with pytest.raises(PluginError, match=r"trainer\.callbacks\.0: .* cannot be built .*min, max, got up"):
        build_callbacks(section(callbacks=[{**named, "mode": "up"}]))
    with pytest.raises(ConfigError, match=r"EarlyStopping monitors 'a/APP', .* 'a/AP'\?"):
        check_callbacks([EarlyStopping("a/APP")], ["a/AP"])
    with pytest.raises(ConfigError, match=r"the state_dict of Unreadable cannot be read back"):
        check_callbacks([Unreadable()], [])
    check_callbacks([EarlyStopping("a/AP"), Seen()], ["a/AP"])


# ---- runs ----


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_callbacks_and_loggers_get_the_config_every_metric_and_the_runs_folder(tiny: Path, tmp_path: Path) -> None:
    from tests.training.own_callbacks import Hyperparameters, Seen

    logger, seen = Hyperparameters(tmp_path, name="given", version=0), Seen("detection/AP50")
    named = "{name: pytorch_lightning.callbacks:ModelCheckpoint, monitor: detection/AP50, mode: max, filename: best-50}"
    given = [f"trainer.callbacks=[{named}]", "trainer.loggers=[pytorch_lightning.loggers:CSVLogger]"]
    run = densevit.fit(
        tiny, ["trainer.max_steps=1", *given], loggers=[logger], callbacks=[seen], run_dir=tmp_path / "run"
    )
    assert logger.given == configs.load(run.path).model_dump()
    assert run.metrics["detection/AP50"] in seen.values  # exact, although Lightning's log would round to float32
    assert {path.name for path in (run.path / "checkpoints").iterdir()} >= {"last.ckpt", "best-50.ckpt"}
    [row] = [row for row in rows(run.path) if row["detection/AP"]]
    assert row["step"] == "1"  # the number of steps before it
    assert float(row["detection/AP"]) == json.loads((run.path / "metrics.json").read_text())["detection/AP"]
    for folder in (run.path / "lightning_logs", tmp_path / "given"):
        text = (folder / "version_0" / "metrics.csv").read_text()
        assert "train/loss" in text and row["detection/AP50"] in text
