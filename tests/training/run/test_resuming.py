"""Resuming: edited configs, locked folders, full disks."""

import os
import re
import resource
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from densevit import config as configs
from densevit.cli import main
from densevit.data.loading.dataloader import TransformedDataset
from densevit.errors import ConfigError, DataError, TrainingError, WeightsError
from densevit.evaluation import metrics_file
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.weights.model_file import load as load_file
from tests.training.process_groups import child, linux, wait_for
from tests.training.runs import (
    TINY,
    assert_same,
    assert_same_run,
    checkpoint,
    edit,
    interrupted_after,
    recorded,
    resume,
    train,
    weights,
)

pytestmark = pytest.mark.usefixtures("no_drawings")


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ---- kills ----


@pytest.mark.integration
def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, trained, capsys):
    whole, killed = trained(TINY, ["trainer.max_steps=2"]), tmp_path / "killed"
    (killed / "checkpoints").mkdir(parents=True)
    (killed / "config.yaml").write_text((whole / "config.yaml").read_text())
    (killed / "metrics.csv").write_text("step,train/loss\n1,98765.5\n")
    capsys.readouterr()
    assert main(["train", "--resume", str(killed)]) == 0
    assert f"{killed} has no checkpoint yet: training starts again from the beginning." in capsys.readouterr().out
    assert_same(weights(whole), weights(killed))
    assert "98765.5" not in (killed / "metrics.csv").read_text()
    assert main(["train", "--resume", str(killed)]) == 0
    assert f"{killed} has trained all of its 2 steps. To train longer: densevit" in capsys.readouterr().out


@pytest.mark.integration
@linux
def test_a_run_killed_as_it_saves_its_first_epoch_is_resumed_exactly(tmp_path, trained):
    """After the model and before the checkpoint."""
    from densevit.training.callbacks.checkpoint_writer import Checkpointing

    overrides = ["trainer.max_steps=4", "trainer.evaluate_every=0.5"]
    config = configs.from_mapping(yaml.safe_load(TINY), overrides=overrides)
    whole, killed = trained(TINY, overrides), tmp_path / "killed"

    def fail() -> None:
        Checkpointing._save = kill  # type: ignore[method-assign, assignment]
        train(config, killed)

    child(fail).join(120)
    assert (killed / "model.safetensors").exists()
    assert not list((killed / "checkpoints").iterdir())
    resume(killed)
    assert_same_run(whole, killed)


@pytest.mark.integration
@linux
def test_a_run_killed_before_its_config_starts_again_in_its_folder(tiny, tmp_path, capsys):
    """The script for SLURM in docs/multi-gpu.md resumes a run that has a config.yaml, and else starts it."""
    config, run = configs.load(tiny, ["trainer.max_steps=1"]), tmp_path / "run"

    def fail() -> None:
        configs.dump = kill  # type: ignore[assignment]
        train(config, run)

    child(fail).join(120)
    assert run.is_dir() and not (run / "config.yaml").exists()
    (run / "config.yaml.partial").write_text("backb")
    assert main(["train", "--resume", str(run)]) == 2
    assert f"start the run with densevit train CONFIG --run-dir {run}" in capsys.readouterr().err
    assert train(config, run) == run and checkpoint(run)["global_step"] == 1


@pytest.mark.integration
def test_a_compiled_run_is_resumed_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a frozen stem, checkpointing, drop path, accumulation, bf16 and an average of the weights."""
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    keys = ["trainer.compile=true", "trainer.accumulate=2", "trainer.precision=bf16-mixed", "trainer.ema=0.9"]
    backbone = "{name: vit, variant: nano, weights: random, freeze: 1, checkpointing: true, drop_path: 0.2}"
    keys += [f"backbone={backbone}"]
    config = configs.from_mapping(yaml.safe_load(TINY), overrides=keys)
    whole, run = train(config, tmp_path / "whole"), tmp_path / "run"
    with interrupted_after(2):
        train(config, run)
    resume(run)
    assert_same_run(whole, run)
    assert backend.frame_count and not counters["graph_break"]


# ---- an earlier checkpoint, and nothing to train ----


def files_of(run: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    return {str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.integration
def test_an_earlier_checkpoint_continues_in_a_new_folder_to_the_same_weights(copied_run, tmp_path, capsys):
    """The run stays as it is, the average included; the best epoch is one of the new folder."""
    overrides = ["trainer.max_steps=4", "trainer.evaluate_every=0.25", "trainer.keep_checkpoints=4", "trainer.ema=0.5"]
    run, new = copied_run(TINY, overrides), tmp_path / "new"
    before, earlier = files_of(run), run / "checkpoints" / "step-2.ckpt"
    assert main(["train", "--resume", str(earlier)]) == 2
    assert (
        f"Fix: add --run-dir NEW to continue from this one in a new folder; or continue the run with --resume {run}."
        in (capsys.readouterr().err)
    )
    with pytest.warns(UserWarning, match="the next validation counts as the best"):
        assert main(["train", "--resume", str(earlier), "--run-dir", str(new)]) == 0
    assert files_of(run) == before
    for key in ("state_dict", "current_model_state"):
        assert_same(checkpoint(new)[key], checkpoint(run)[key])
    assert recorded(new) == [row for row in recorded(run) if int(row["step"]) >= 2 + (not row["train/loss"])]
    assert main(["train", "--resume", str(run), "--run-dir", str(tmp_path / "longer"), "trainer.max_steps=5"]) == 0
    assert checkpoint(tmp_path / "longer")["global_step"] == 5 and files_of(run) == before


@pytest.mark.integration
def test_a_resume_that_trains_nothing_changes_no_file(copied_run: Callable[..., Path]) -> None:
    run = copied_run(TINY, ["trainer.max_steps=2"])
    (run / "report.html").touch()  # of a complete run
    before = files_of(run)
    resume(run, ["trainer.log_every=7"])
    assert files_of(run) == before


# ---- edited configs and changed checkpoints ----


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("width: 32", "width: 64", "heads.detection.transformer.width: 32 -> 64"),
        ("name: adamw", "name: sgd", "optim.name: 'adamw' -> 'sgd'"),
        ("layer_decay: 1.0", "layer_decay: 0.9", "optim.layer_decay: 1.0 -> 0.9"),
        ("weight_decay: 0.0001", "weight_decay: 0", "keep optim.weight_decay above 0"),  # joins parameter groups
    ],
)
def test_edit_that_changes_the_model_is_named(stopped: Path, old: str, new: str, said: str) -> None:
    before = (stopped / "checkpoints" / "last.ckpt").read_bytes()
    edit(stopped, old, new)
    with pytest.raises(ConfigError, match=re.escape(said)):
        resume(stopped)
    assert (stopped / "checkpoints" / "last.ckpt").read_bytes() == before


def test_mismatched_classes_or_tensors_are_named(stopped: Path) -> None:
    path, content = stopped / "checkpoints" / "last.ckpt", checkpoint(stopped)
    key = "model.heads.detection.label_head.weight"
    shape = tuple(content["state_dict"][key].shape)
    torch.save({**content, "state_dict": {**content["state_dict"], key: torch.zeros(2, 2)}}, path)
    with pytest.raises(WeightsError, match=rf"{key} has shape \(2, 2\); the model has \({shape[0]}, {shape[1]}"):
        resume(stopped)
    torch.save({**content, "classes": {"detection": ["cat", "dog"]}}, path)
    with pytest.raises(WeightsError, match=r"heads\.detection was trained on the classes cat, dog; the data now has"):
        resume(stopped)


# ---- the folder ----


@pytest.mark.integration
@linux
def test_running_training_locks_its_folder(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "long"
    long = configs.load(tiny, ["trainer.max_steps=100000", "trainer.checkpoint_every=1"])
    process = child(lambda: train(long, run))
    try:
        wait_for(run / "checkpoints" / "last.ckpt", process)
        with pytest.raises(ConfigError, match=rf"long: is in use by process {process.pid} on .*Fix: wait until"):
            resume(run)
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    resume(run, ["trainer.max_steps=1"])  # training is complete


@linux
def test_lock_of_a_run_survives_that_code_of_the_process_reads_its_files(tmp_path: Path) -> None:
    """A POSIX lock (fcntl) is lost when any code of the process closes the file."""
    from densevit.training.run.folder import RunFolder

    lock, refused = RunFolder(tmp_path, new=False), tmp_path / "refused"
    assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")

    def attempt() -> None:
        try:
            RunFolder(tmp_path, new=False)
        except ConfigError as error:
            refused.write_text(str(error))

    child(attempt).join(60)
    assert f"is in use by process {os.getpid()} on" in refused.read_text()
    lock.close()
    RunFolder(tmp_path, new=False).close()


def test_folder_that_cannot_be_created_raises(tiny, monkeypatch, capsys):
    monkeypatch.chdir(tiny.parent)
    Path("file").write_text("")
    assert main(["train", "tiny.yaml", "--run-dir", "file/run"]) == 2
    assert capsys.readouterr().err.startswith("--run-dir file/run: cannot be created: Not a directory. Fix: ")


@linux
def test_read_only_run_folder_raises(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stopped / "config.yaml.partial").mkdir()  # simulates a read-only file system, also for root
    assert main(["train", "--resume", str(stopped)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{stopped}/config.yaml cannot be written: Is a directory.") and error.count("\n") == 1


@pytest.mark.parametrize("setting", ["accelerator=gpu", "accelerator=tpu", "devices='0,2'", "strategy=foo"])
def test_missing_devices_raise_and_leave_no_folder(tiny, monkeypatch, capsys, setting):
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    monkeypatch.chdir(tiny.parent)
    assert main(["train", "tiny.yaml", f"trainer.{setting}"]) == 2
    error = capsys.readouterr().err
    assert "trainer." + setting.replace("'", "") in error and "`auto`" in error and error.count("\n") == 1
    assert not Path("runs").exists()


# ---- disks that fail ----


@pytest.mark.integration
@linux
def test_full_disk_preserves_the_previous_checkpoint(stopped, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no-such-folder"))  # nothing may be written there
    path = stopped / "checkpoints" / "last.ckpt"
    said = error_on_a_full_disk(stopped, path, tmp_path, "trainer.checkpoint_every=1")
    assert said == (
        f"{path} cannot be written: File too large. The previous checkpoint is unchanged. "
        f"Resume from the last checkpoint with: densevit train --resume {stopped}"
    )
    resume(stopped)
    assert checkpoint(stopped)["global_step"] == 4


@pytest.mark.integration
@linux
def test_full_disk_preserves_the_model_of_the_best_epoch(stopped, tmp_path, monkeypatch):
    monkeypatch.setattr(BestEpoch, "improves", lambda self, metrics: True)
    path = stopped / "model.safetensors"
    said = error_on_a_full_disk(stopped, path, tmp_path, "trainer.checkpoint_every=1000")
    assert said.startswith(f"{path} cannot be written: File too large. Resume from the last checkpoint with: ")


def error_on_a_full_disk(run: Path, path: Path, folder: Path, *overrides: str) -> str:
    """Resumes with a limit of half the file, as on a full disk: the write fails in the middle and the file stays."""
    before, said = path.read_bytes(), folder / "said"

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2,) * 2)
        try:
            resume(run, overrides)
        except TrainingError as error:
            said.write_text(str(error))

    child(fill).join(120)
    assert path.read_bytes() == before and not list(run.rglob("*.partial"))
    return said.read_text()


# ---- the files of the best epoch ----


@pytest.mark.integration
def test_without_the_files_of_the_best_epoch_the_next_one_is_the_best(stopped, monkeypatch):
    (stopped / "model.safetensors").unlink()
    monkeypatch.setattr(BestEpoch, "beats", lambda *_: False)
    with pytest.warns(UserWarning, match=r"has no model\.safetensors of its best epoch"):
        resume(stopped)
    assert "detection/AP" in metrics_file.read(stopped / "metrics.json")
    assert load_file(stopped).heads


@pytest.mark.integration
@linux
def test_killed_loader_process_raises(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, parent = TransformedDataset.__getitem__, os.getpid()

    def killed(self: TransformedDataset, pick):  # type: ignore[no-untyped-def]
        if os.getpid() != parent:
            kill()
        return original(self, pick)

    monkeypatch.setattr(TransformedDataset, "__getitem__", killed)
    said = r"^A data loader's process was killed, as happens when memory runs out .*Fix: reduce data\.num_workers"
    with pytest.raises((DataError, TrainingError), match=said):
        train(configs.load(tiny, ["data.num_workers=1"]), tmp_path / "run")
