"""Callbacks and loggers that a config names, and how they are checked, restored and placed."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.config import TrainerSection
from densevit.errors import ConfigError, PluginError
from tests.training.run.test_run import TINY
from tests.training.runs import interrupted_after, resume, train

OWN = "tests.training.own_callbacks"
STOPPING = "{name: pytorch_lightning.callbacks:EarlyStopping, monitor: detection/AP, mode: max, patience: 2"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def section(**keys: Any) -> TrainerSection:
    return TrainerSection(max_steps=1, **keys)


# ---- checks before anything is read ----


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks=[EarlyStopping]", r"callbacks\.0\.name: There is no callback 'EarlyStopping'\. Write module:Class, "
         r"as in pytorch_lightning\.callbacks:EarlyStopping"),
        ("callbacks=[no_such:Thing]", r"callbacks\.0\.name: .* there is no module 'no_such'"),
        ("callbacks=[torch.optim:AdamW]", r"is the class AdamW, which is not a pytorch_lightning\.Callback"),
        (f"callbacks=[{STOPPING}, patiense: 3}}]", r"callbacks\.0\.patiense is not .* Did you mean 'patience'\?"),
        (f"callbacks=[{STOPPING}, min_delta: x}}]", r"callbacks\.0\.min_delta should be a valid number, not 'x'"),
        ("callbacks=[pytorch_lightning.callbacks:EarlyStopping]", r"callbacks\.0\.monitor is missing"),
        (f"callbacks=[{{name: {OWN}:Passing, monitr: x}}]", r"callbacks\.0\.monitr .* Did you mean 'monitor'\?"),
        ("callbacks={a: b}", r"trainer\.callbacks: give a list, as in \[\{name: module:Class\}\], not \{'a': 'b'\}"),
        ("loggers=[tensorbord]", r"loggers\.0\.name: There is no logger 'tensorbord'\. Did you mean 'tensorboard'\?"),
        ("loggers=[{name: csv, x: 1}]", r"loggers\.0\.x is not an option of 'csv'\. It has no options"),
        ("loggers=[{name: pytorch_lightning.loggers:WandbLogger, projct: x}]", r"loggers\.0\.projct .* 'project'\?"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_one_line_before_data_is_read(tiny: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"command line: .*{message}") as raised:
        configs.check_plugins(configs.load(tiny, [f"trainer.{override}"]))
    assert "\n" not in str(raised.value)


def test_keys_for_a_base_class_or_another_library_are_accepted(tiny: Path) -> None:
    passing = f"{{name: {OWN}:Passing, monitor: detection/AP, patience: 3, extra: 2}}"
    wandb = "{name: pytorch_lightning.loggers:WandbLogger, project: x, group: y}"  # wandb.init takes group
    given = [f"trainer.callbacks=[{passing}]", f"trainer.loggers=[csv, {wandb}]"]
    configs.check_plugins(configs.load(tiny, given))
    assert configs.load(tiny, given) == configs.from_mapping(configs.load(tiny, given).model_dump())


def test_a_callback_of_the_package_lightning_is_that_of_pytorch_lightning() -> None:
    from pytorch_lightning.callbacks import EarlyStopping

    from densevit.training.run.extensions import build_callbacks

    named = {"name": "lightning.pytorch.callbacks:EarlyStopping", "monitor": "a", "mode": "max"}
    [callback] = build_callbacks(section(callbacks=[named]))
    assert isinstance(callback, EarlyStopping) and callback.mode == "max"


def test_an_option_that_the_constructor_refuses_is_one_line() -> None:
    from densevit.training.run.extensions import build_callbacks

    named = {"name": "pytorch_lightning.callbacks:EarlyStopping", "monitor": "a", "mode": "up"}
    with pytest.raises(
        PluginError, match=r"trainer\.callbacks\.0: .* cannot be built .*`mode` can be min, max, got up"
    ):
        build_callbacks(section(callbacks=[named]))


def test_two_callbacks_of_one_state_are_refused() -> None:
    from pytorch_lightning.callbacks import EarlyStopping

    from densevit.training.run.extensions import build_callbacks

    with pytest.raises(ConfigError, match=r"two callbacks have the same state_key, EarlyStopping\{'monitor': 'a'"):
        build_callbacks(section(), [EarlyStopping("a"), EarlyStopping("a", patience=9)])


def test_an_unknown_metric_or_an_unreadable_state_is_found_before_training() -> None:
    from pytorch_lightning.callbacks import EarlyStopping

    from densevit.training.run.extensions import check_callbacks
    from tests.training.own_callbacks import Seen, Unreadable

    with pytest.raises(
        ConfigError, match=r"EarlyStopping monitors 'a/APP', which is not a metric\. Did you mean 'a/AP'\?"
    ):
        check_callbacks([EarlyStopping("a/APP")], ["a/AP"])
    with pytest.raises(
        ConfigError, match=r"the state_dict of Unreadable cannot be read back .*tensors, numbers, strings"
    ):
        check_callbacks([Unreadable()], [])
    check_callbacks([EarlyStopping("a/AP"), Seen()], ["a/AP"])


# ---- runs ----


def test_early_stopping_ends_a_run_with_a_complete_folder(tiny: Path, tmp_path: Path) -> None:
    """AP stays 0 in so few steps: of four validations the third is the second without an improvement."""
    from tests.training.own_callbacks import Seen

    seen = Seen()
    run = densevit.fit(
        tiny, [f"trainer.callbacks=[{STOPPING}, min_delta: 0.5}}]", "optim.lr=1e-9"],
        callbacks=[seen], run_dir=tmp_path / "run",
    )  # fmt: skip
    assert (run.stopped_by, seen.count) == (0, 3)
    checkpoint = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6  # of 8
    [state] = [value for key, value in checkpoint["callbacks"].items() if key.startswith("EarlyStopping")]
    assert (state["wait_count"], state["stopped_epoch"]) == (2, 1)
    for name in ("model.safetensors", "metrics.json", "report.html", "predictions"):
        assert (run.path / name).exists()
    assert run.metrics["detection/AP"] in seen.values  # exact, although Lightning's own log would round to float32


@pytest.mark.integration
def test_early_stopping_goes_on_where_an_interrupted_run_left_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [f"trainer.callbacks=[{STOPPING}, min_delta: 0.5}}]", "optim.lr=1e-9", "trainer.evaluate_every=0.25"]
    with interrupted_after(5):  # validations were after steps 2 and 4
        run = densevit.fit(tiny, named, run_dir=tmp_path / "run")
    assert run.stopped_by == signal.SIGINT
    assert densevit.fit(resume=run.path).stopped_by == 0
    checkpoint = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    [state] = [value for key, value in checkpoint["callbacks"].items() if key.startswith("EarlyStopping")]
    assert (checkpoint["global_step"], state["wait_count"]) == (6, 2)


@pytest.mark.integration
def test_a_callbacks_state_is_restored(tiny: Path, tmp_path: Path) -> None:
    named = f"trainer.callbacks=[{{name: {OWN}:Seen}}]"
    run = train(configs.load(tiny, [named, "trainer.max_steps=4", "trainer.evaluate_every=0.5"]), tmp_path / "run")
    resume(run, ["trainer.max_steps=6"])
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["Seen"] == {"count": 3}  # after steps 2, 4 and 6


@pytest.mark.integration
def test_a_callback_that_stops_between_validations_loses_no_step(tiny: Path, tmp_path: Path) -> None:
    from tests.training.own_callbacks import StopsAt

    run = densevit.fit(tiny, ["trainer.evaluate_every=1"], callbacks=[StopsAt()], run_dir=tmp_path / "run")
    assert torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert (run.path / "model.safetensors").is_file()


@pytest.mark.integration
def test_lightnings_checkpoints_go_to_the_runs_folder(tiny: Path, tmp_path: Path) -> None:
    named = "{name: pytorch_lightning.callbacks:ModelCheckpoint, monitor: detection/AP50, mode: max, filename: best-50}"
    run = densevit.fit(tiny, [f"trainer.callbacks=[{named}]", "trainer.max_steps=2"], run_dir=tmp_path / "run")
    assert {path.name for path in (run.path / "checkpoints").iterdir()} >= {"last.ckpt", "best-50.ckpt"}


@pytest.mark.integration
def test_loggers_get_the_config_every_metric_and_the_runs_folder(tiny: Path, tmp_path: Path) -> None:
    from densevit.training.run.metrics_csv import MetricsCsv
    from tests.training.own_callbacks import Hyperparameters

    logger = Hyperparameters(tmp_path, name="given", version=0)
    run = densevit.fit(
        tiny, ["trainer.max_steps=1", "trainer.loggers=[pytorch_lightning.loggers:CSVLogger]"],
        loggers=[logger], run_dir=tmp_path / "run",
    )  # fmt: skip
    assert logger.given == configs.load(run.path).model_dump()
    tables = [
        run.path / "lightning_logs" / "version_0" / "metrics.csv",
        tmp_path / "given" / "version_0" / "metrics.csv",
    ]
    rows = MetricsCsv(run.path / "metrics.csv").rows()
    [row] = [row for row in rows if row["detection/AP"]]
    assert row["step"] == "1"  # the number of steps before it
    assert float(row["detection/AP"]) == json.loads((run.path / "metrics.json").read_text())["detection/AP"]
    for path in tables:
        text = path.read_text()
        assert "train/loss" in text and row["detection/AP50"] in text


def test_the_default_is_tensorboard_where_it_is_installed(tmp_path: Path) -> None:
    from densevit.training.run.extensions import build_loggers

    pytest.importorskip("tensorboard")
    names = {
        None: ["MetricsCsv", "TensorBoard"], (): ["MetricsCsv"], ("csv",): ["MetricsCsv"],
        ("tensorboard",): ["MetricsCsv", "TensorBoard"],
    }  # fmt: skip
    for given, expected in names.items():
        loggers = build_loggers(section(loggers=None if given is None else list(given)), tmp_path)
        assert [type(logger).__name__ for logger in loggers] == expected
