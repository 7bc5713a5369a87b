"""Signals and kills: saved checkpoints, exit codes, and exact resuming."""

import json
import os
import random
import signal
from pathlib import Path
from unittest import mock

import pytest

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.config.values import seconds_of
from densevit.errors import ConfigError
from tests.training.process_groups import child, in_two_processes, linux, wait_for
from tests.training.runs import assert_same_run, checkpoint, interrupted_after, resume, train

pytestmark = [pytest.mark.integration, linux]

ENDLESS = ["trainer.max_steps=100000", "trainer.checkpoint_every=1"]
FILES = ("model.safetensors", "metrics.json", "report.html")


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


@pytest.mark.parametrize(
    ("number", "send", "workers"),
    [(signal.SIGTERM, os.kill, 0), (signal.SIGINT, os.killpg, 2), (signal.SIGUSR1, os.killpg, 2)],
)
def test_signal_saves_a_checkpoint_and_sets_the_exit_code(small, tmp_path, number, send, workers, capfd):
    """Of the process alone, and of its group with the loader's processes, as by Ctrl-C, `timeout` and `scancel`."""
    run = tmp_path / "run"

    def work() -> None:
        os.setsid()
        os._exit(main(["train", str(small), *ENDLESS, f"data.num_workers={workers}", "--run-dir", str(run)]))

    process = child(work)
    wait_for(run / "checkpoints" / "last.ckpt", process)
    send(process.pid, number)
    process.join(120)
    assert process.exitcode == 128 + number
    assert 0 < checkpoint(run)["global_step"] < 100000
    assert all((run / name).is_file() for name in FILES) and densevit.Run(run).stopped
    assert capfd.readouterr().err.count("Stopping after this step") == 1


@pytest.mark.parametrize(
    ("number", "raised", "code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143), (signal.SIGUSR1, SystemExit, 138)],
)
def test_a_signal_reaches_the_script_after_the_run_is_saved(number, raised, code, small, tmp_path, capsys):
    """A loop over trainings ends, also in two processes; the run says that it was stopped until it is resumed."""
    begun: list[Path] = []
    with interrupted_after(2, number, raised) as stop:
        for n in range(3):
            begun.append(tmp_path / str(n))
            densevit.fit(small, ["trainer.max_steps=4"], run_dir=begun[-1])
    [path] = begun
    assert getattr(stop.value, "code", None) == code
    run = densevit.Run(path)
    assert run.stopped and checkpoint(path)["global_step"] == 2 and all((path / name).is_file() for name in FILES)
    assert "detection/AP" in run.metrics and [*run.model.heads] == ["detection"]
    assert f"Stopped. Resume from the last checkpoint with: densevit train --resume {path}" in (
        capsys.readouterr().out.replace("\n", "")
    )
    resumed = densevit.fit(resume=path)
    assert not resumed.stopped and not run.stopped and "detection/AP" in resumed.metrics


@pytest.mark.usefixtures("no_drawings")
def test_a_signal_to_one_process_reaches_the_script_in_each(small: Path, tmp_path: Path, capfd) -> None:
    run = tmp_path / "run"

    def work(rank: int) -> None:
        with interrupted_after(2 if rank == 1 else -1, signal.SIGTERM, SystemExit) as stop:
            densevit.fit(small, ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=4"], run_dir=run)
        assert stop.value.code == 143

    in_two_processes(work, tmp_path)
    assert capfd.readouterr().out.count("Stopped. Resume from") == 1
    assert densevit.Run(run).stopped and checkpoint(run)["global_step"] == 2


def test_second_ctrl_c_exits_immediately_and_prints_how_to_resume(small, tmp_path, capfd):
    """During the final validation."""
    from densevit.training.loop.dense_module import DenseModule

    original = DenseModule.validation_step

    def interrupted(self: DenseModule, batch: object, index: int) -> object:
        for _ in range(2 * (self.trainer.global_step == 4)):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, index)  # type: ignore[arg-type]

    run = tmp_path / "run"
    with mock.patch.object(DenseModule, "validation_step", interrupted):
        code = main(["train", str(small), "trainer.max_steps=4", "trainer.checkpoint_every=1", "--run-dir", str(run)])
    assert code == 130
    said = f"Resume from the last checkpoint with: densevit train --resume {run}"
    assert said in capfd.readouterr().out.replace("\n", "") and densevit.Run(run).stopped
    assert "detection/AP" in json.loads((resume(run) / "metrics.json").read_text())


# ---- what does not stop a training ----


def test_checkpoints_are_saved_by_steps_or_time(small: Path) -> None:
    assert [seconds_of(text) for text in ("30s", "5min", "1h")] == [30, 300, 3600]
    with pytest.raises(ConfigError, match="30s, 5min or 1h, not '5 minutes'"):
        configs.load(small, ["trainer.checkpoint_every=5 minutes"])
