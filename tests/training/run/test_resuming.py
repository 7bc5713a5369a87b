"""densevit/training/run/resuming.py: edited configs, locked folders, full disks."""

import re
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from densevit import config as configs
from densevit.cli import main
from densevit.errors import ConfigError, TrainingError, WeightsError
from tests.training.process_groups import child, linux, wait_for
from tests.training.runs import (
    TINY,
    assert_same,
    checkpoint,
    edit,
    recorded,
    resume,
    rows,
    train,
    weights,
)

pytestmark = pytest.mark.usefixtures("no_drawings")


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


# ---- an earlier checkpoint, and nothing to train ----


def files_of(run: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    return {str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.integration
def test_an_earlier_checkpoint_continues_in_a_new_folder_to_the_same_weights(copied_run, tmp_path, capsys):
    """The run stays as it is, the average included; the best epoch is one of the new folder."""
    overrides = ["trainer.max_steps=4", "trainer.evaluations=4", "trainer.keep_checkpoints=4", "trainer.ema=0.5"]
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


@pytest.mark.integration
@linux
def test_running_training_locks_its_folder(tiny: Path, tmp_path: Path) -> None:
    run, long = tmp_path / "long", configs.load(tiny, ["trainer.max_steps=100000", "trainer.checkpoint_every=1"])
    process = child(lambda: train(long, run))
    try:
        wait_for(run / "checkpoints" / "last.ckpt", process)
        with pytest.raises(ConfigError, match=rf"long: is in use by process {process.pid} on .*Fix: wait until"):
            resume(run)
    finally:
        process.kill()
        process.join(60)
    resume(run, ["trainer.max_steps=1"])  # training is complete


# ---- the folder ----


@pytest.mark.usefixtures("cwd")
@pytest.mark.parametrize("setting", ["accelerator=gpu", "accelerator=tpu", "devices='0,2'", "strategy=foo"])
def test_missing_devices_raise_and_leave_no_folder(tiny, capsys, setting):
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    assert main(["train", "tiny.yaml", f"trainer.{setting}"]) == 2
    error = capsys.readouterr().err
    assert "trainer." + setting.replace("'", "") in error and "`auto`" in error and error.count("\n") == 1
    assert not Path("runs").exists()


# ---- disks that fail ----


@pytest.mark.integration
@linux
def test_full_disk_preserves_the_previous_checkpoint(stopped, tmp_path):
    """Resumes with a limit of half the file, as on a full disk: the write fails in the middle and the file stays."""
    path, said = stopped / "checkpoints" / "last.ckpt", tmp_path / "said"
    best = max((row for row in rows(stopped) if row.get("detection/AP")), key=lambda row: float(row["detection/AP"]))
    before = path.read_bytes()

    def fill() -> None:
        tempfile.tempdir = str(tmp_path / "no-such-folder")  # nothing may be written there
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2,) * 2)
        try:
            resume(stopped, ["trainer.checkpoint_every=1"])
        except TrainingError as error:
            said.write_text(str(error))

    child(fill).join(120)
    assert path.read_bytes() == before and not list(stopped.rglob("*.partial"))
    assert said.read_text() == (
        f"{path} cannot be written: File too large. The previous checkpoint is unchanged. "
        f"model.safetensors has the epoch of step {best['step']}. "
        f"Resume from the last checkpoint with: densevit train --resume {stopped}"
    )
    resume(stopped)
    assert checkpoint(stopped)["global_step"] == 4
