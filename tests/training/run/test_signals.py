"""Signals and kills: saved checkpoints, exit codes, and exact resuming."""

import json
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from densevit import config as configs
from densevit.cli import main
from densevit.config.values import seconds_of
from densevit.errors import ConfigError
from tests.training.process_groups import child, group, linux, wait_for
from tests.training.runs import assert_same_run, checkpoint, resume, train

pytestmark = [pytest.mark.integration, linux]

SMALL = """
backbone: {name: swin, variant: nano, window_size: 4}
heads:
  detection:
    {name: dab_detr, num_queries: 4, classification: mal, extensions: {denoising: 1},
     transformer: {width: 16, num_heads: 2, encoder_layers: 1, decoder_layers: 1, feedforward: 16, dropout: 0.1}}
data: {name: scenes, image_size: 32, batch_size: 2, num_workers: 0, train_length: 14, val_length: 2}
optim: {lr: 1e-3, warmup: 0.1}
trainer: {max_steps: 40, precision: "32", accelerator: cpu, devices: 1, log_every: 1, checkpoint_every: 3}
"""
ENDLESS = ["trainer.max_steps=100000", "trainer.checkpoint_every=1"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.usefixtures("no_drawings")
def test_killed_run_resumes_exactly(small: Path, tmp_path: Path) -> None:
    """At random moments, with an average of the weights and accumulation."""
    config = configs.load(
        small, ["trainer.ema=0.9", "trainer.accumulate=2", "trainer.checkpoint_every=2", "trainer.max_steps=24"]
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = child(lambda: train(config, whole))
    process.join(300)
    assert process.exitcode == 0
    moments, kills = random.Random(1), 0
    process = child(lambda: train(config, killed))
    while kills < 3:
        wait_for(killed / "checkpoints" / "last.ckpt", process)
        process.join(moments.uniform(0.05, 0.8))
        if not process.is_alive():
            break
        process.kill()
        process.join(60)
        kills += 1
        process = child(lambda: resume(killed))
    process.join(300)
    assert process.exitcode == 0 and kills > 0
    assert_same_run(whole, killed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_signal_saves_a_checkpoint_and_sets_the_exit_code(small: Path, tmp_path: Path, number: int, code: int) -> None:
    run = tmp_path / "run"
    process = child(lambda: os._exit(main(["train", str(small), *ENDLESS, "--run-dir", str(run)])))
    wait_for(run / "checkpoints" / "last.ckpt", process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(120)
    assert process.exitcode == code
    assert 0 < checkpoint(run)["global_step"] < 100000
    for name in ("model.safetensors", "metrics.json", "report.html"):
        assert (run / name).is_file(), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_to_the_process_group_reaches_the_loader_s_processes_too(small, tmp_path, number, capfd):
    """As by Ctrl-C, `timeout` and `scancel`."""
    run = tmp_path / "run"

    def train() -> None:
        os.setsid()
        os._exit(main(["train", str(small), *ENDLESS, "data.num_workers=2", "--run-dir", str(run)]))

    process = child(train)
    wait_for(run / "checkpoints" / "last.ckpt", process)
    assert process.pid is not None
    os.killpg(process.pid, number)
    process.join(120)
    assert process.exitcode == 128 + number
    assert (run / "model.safetensors").is_file()
    assert capfd.readouterr().err.count("Stopping after this step") == 1


def test_signal_to_one_process_stops_both_at_the_same_step(small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = ["trainer.devices=2", "trainer.strategy=ddp", *ENDLESS]
    commands = group("train", str(small), *overrides, "--run-dir", str(run), folder=tmp_path)
    wait_for(run / "checkpoints" / "last.ckpt", commands[0].process)
    assert commands[1].process.pid is not None
    os.kill(commands[1].process.pid, signal.SIGTERM)  # the second process only
    first, second = (command.ended() for command in commands)
    assert (first.code, second.code) == (143, 143), first.errors + second.errors
    assert first.output.count("Stopped. Resume from") == 1 and "Stopped." not in second.output
    assert len(checkpoint(run)["random_state"]) == 2


def test_second_ctrl_c_exits_immediately_and_prints_how_to_resume(small, tmp_path, capfd, monkeypatch):
    """During the final validation."""
    from densevit.training.loop.dense_module import DenseModule

    original = DenseModule.validation_step

    def interrupted(self: DenseModule, batch: object, index: int) -> object:
        if self.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, index)  # type: ignore[arg-type]

    monkeypatch.setattr(DenseModule, "validation_step", interrupted)
    run = tmp_path / "run"
    code = main(["train", str(small), "trainer.max_steps=4", "trainer.checkpoint_every=1", "--run-dir", str(run)])
    assert code == 130
    said = f"Resume from the last checkpoint with: densevit train --resume {run}"
    assert said in capfd.readouterr().out.replace("\n", "")
    monkeypatch.undo()
    assert "detection/AP" in json.loads((resume(run) / "metrics.json").read_text())


def exit_code_of(small: Path, prepare: Callable[[], object], *overrides: str) -> int | None:
    """That of `train` in a forked process, after a preparation there."""

    def run() -> None:
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr, flush=True)  # not by pytest
        try:
            prepare()
            os._exit(main(["train", str(small), *overrides, "--run-dir", str(small.parent / "run")]))
        except SystemExit as stop:
            os._exit(stop.code if isinstance(stop.code, int) else 99)

    process = child(run)
    process.join(200)
    return process.exitcode


def at_step(step: int, work: Callable[[], object]) -> None:
    from densevit.training.loop.dense_module import DenseModule

    original = DenseModule.training_step

    def training_step(self: DenseModule, batch: object, index: int) -> object:
        if self.trainer.global_step == step:
            work()
        return original(self, batch, index)  # type: ignore[arg-type]

    DenseModule.training_step = training_step  # type: ignore[assignment,method-assign]


def while_drawing(work: Callable[[], object]) -> None:
    from densevit.training.run import run_output as run_output

    run_output.draw_images = lambda *_: work()  # type: ignore[assignment,return-value]


def failing() -> None:
    raise OSError(28, "No space left on device")


# ---- what does not stop a training ----


def test_ctrl_c_while_drawing_ends_at_once_and_leaves_the_report(small: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

    assert exit_code_of(small, lambda: while_drawing(interrupt), "trainer.max_steps=1") == 130
    assert (tmp_path / "run" / "report.html").is_file() and (tmp_path / "run" / "metrics.json").is_file()


def test_error_while_drawing_leaves_the_report_and_the_exit_code_of_the_training(small, tmp_path, capfd):
    assert exit_code_of(small, lambda: while_drawing(failing), "trainer.max_steps=1") == 0
    said = "The report is not complete: [Errno 28] No space left on device. To try again: densevit evaluate"
    assert said in capfd.readouterr().err
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.usefixtures("no_drawings")
def test_signal_that_the_parent_ignores_stays_ignored(small: Path, tmp_path: Path) -> None:
    """As SIGINT with `densevit train ... &` in a script, and with nohup."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        at_step(1, lambda: os.kill(os.getpid(), signal.SIGINT))

    assert exit_code_of(small, prepare, "trainer.max_steps=3") == 0
    assert checkpoint(tmp_path / "run")["global_step"] == 3


@pytest.mark.usefixtures("no_drawings")
def test_handlers_are_restored_after_a_training(small: Path, tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = list(map(signal.getsignal, numbers))
    train(configs.load(small, ["trainer.max_steps=1"]), tmp_path / "run")
    assert list(map(signal.getsignal, numbers)) == before


def test_checkpoints_are_saved_by_steps_or_time(small: Path) -> None:
    assert [seconds_of(text) for text in ("30s", "5min", "1h")] == [30, 300, 3600]
    with pytest.raises(ConfigError, match="30s, 5min or 1h, not '5 minutes'"):
        configs.load(small, ["trainer.checkpoint_every=5 minutes"])


def test_incomplete_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    from densevit.training.run.metrics_csv import MetricsCsv

    log = MetricsCsv(tmp_path / "metrics.csv")
    for step in range(3):
        log.log_metrics({"train/loss": 0.5, "epoch": 0}, step)
    log.log_metrics({"epoch": 0, "d/AP": 0.25}, 3)
    with log.path.open("a") as file:
        file.write("3,0.12")
    again = MetricsCsv(log.path)
    assert [row["step"] for row in again.rows()] == ["0", "1", "2", "3"]
    again.remove_after(2)  # two steps were made: 0 and 1
    assert [row["step"] for row in again.rows()] == ["0", "1"]


def test_signal_during_the_exchange_is_kept_for_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives after the process has contributed its flag, before the result."""
    from densevit.training.callbacks import stop_signals

    signals = stop_signals.StopSignals()
    fakes = {"is_initialized": lambda: True, "get_world_size": lambda: 2, "get_rank": lambda: 0}
    fakes |= {"new_group": lambda **_: "group", "all_reduce": lambda *_, **__: signals._on_signal(signal.SIGTERM, None)}
    for name, fake in fakes.items():
        monkeypatch.setattr(stop_signals.distributed, name, fake)
    assert signals.agree(True) == (0, (True,))
    monkeypatch.setattr(stop_signals.distributed, "all_reduce", lambda *_, **__: None)
    assert signals.agree(False) == (signal.SIGTERM, (False,))
