"""Resuming: edited configs, locked folders, full disks."""

import errno
import itertools
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from densevit import config as configs
from densevit.cli import main
from densevit.data.loading.dataloader import TransformedDataset
from densevit.errors import ConfigError, DataError, TrainingError, WeightsError
from densevit.evaluation import metrics_file
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.weights.model_file import load_model
from tests.training.run.test_run import TINY
from tests.training.run.test_signals import child, wait_for
from tests.training.runs import recorded, resume, train

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, locks and limits as Linux has them")


@pytest.fixture
def stopped(copied_run: Callable[..., Path]) -> Path:
    """A run stopped after two of four steps."""
    run = copied_run(TINY, ["trainer.max_steps=2"])
    edit(run, "max_steps: 2", "max_steps: 4")
    return run


def edit(run: Path, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))


@pytest.mark.integration
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    tmp_path: Path, trained: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = trained(TINY, ["trainer.max_steps=2"]), tmp_path / "killed"
    (killed / "checkpoints").mkdir(parents=True)
    (killed / "config.yaml").write_text((whole / "config.yaml").read_text())
    (killed / "metrics.csv").write_text("step,train/loss\n1,9.5\n")
    capsys.readouterr()
    assert main(["train", "--resume", str(killed)]) == 0
    assert f"{killed} has no checkpoint yet: training starts again from the beginning." in capsys.readouterr().out
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, killed)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert "9.5" not in (killed / "metrics.csv").read_text()
    assert main(["train", "--resume", str(killed)]) == 0
    assert f"{killed} has trained all of its 2 steps. To train longer: densevit" in capsys.readouterr().out


@pytest.mark.integration
@linux
def test_a_run_killed_as_it_saves_its_first_epoch_is_resumed_exactly(
    tmp_path: Path, trained: Callable[..., Path]
) -> None:
    """After the model and before the checkpoint."""
    from densevit.training.callbacks.checkpointing import Checkpointing

    overrides = ["trainer.max_steps=4", "trainer.evaluate_every=0.5"]
    config = configs.from_mapping(yaml.safe_load(TINY), overrides=overrides)
    whole, killed = trained(TINY, overrides), tmp_path / "killed"

    def kill(self: Checkpointing, trainer: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail() -> None:
        Checkpointing._save = kill  # type: ignore[method-assign, assignment]
        train(config, killed)

    child(fail).join(120)
    assert (killed / "model.safetensors").exists()
    assert not list((killed / "checkpoints").iterdir())
    process = child(lambda: os._exit(main(["train", "--resume", str(killed)])))
    process.join(120)
    assert process.exitcode == 0
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, killed)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert recorded(whole) == recorded(killed)
    assert (whole / "metrics.json").read_text() == (killed / "metrics.json").read_text()


@pytest.mark.integration
@linux
def test_a_run_killed_before_its_config_starts_again_in_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script for SLURM in docs/multi-gpu.md resumes a run that has a config.yaml, and else starts it."""

    (tmp_path / "tiny.yaml").write_text(TINY)
    config = configs.load(tmp_path / "tiny.yaml", ["trainer.max_steps=1"])
    run = tmp_path / "run"

    def fail() -> None:
        configs.dump = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        train(config, run)

    child(fail).join(120)
    assert run.is_dir() and not (run / "config.yaml").exists()
    (run / "config.yaml.partial").write_text("backb")
    assert main(["train", "--resume", str(run)]) == 2
    assert f"start the run with densevit train CONFIG --run-dir {run}" in capsys.readouterr().err
    assert train(config, run) == run
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1
    with pytest.raises(ConfigError, match="is not empty"):
        train(config, run)


@pytest.mark.integration
def test_a_wrong_clock_changes_neither_a_training_nor_its_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock of 1970, as of a machine without battery, that is set back by an hour each time it is read."""
    overrides = ["trainer.max_steps=4", "trainer.evaluate_every=0.5", "trainer.keep_checkpoints=4"]
    config = configs.from_mapping(yaml.safe_load(TINY), overrides=[*overrides, "trainer.checkpoint_every=1"])
    right = train(config, tmp_path / "right")
    clock = itertools.count(86_400.0, -3600.0)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    wrong = train(config, tmp_path / "wrong")
    resume(wrong / "checkpoints" / "step-2.ckpt")
    assert next(clock) < 86_400.0 - 2 * 3600.0  # it was read
    expected, states = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (right, wrong))
    assert states["global_step"] == 4
    assert all(torch.equal(expected["state_dict"][name], value) for name, value in states["state_dict"].items())
    assert (wrong / "metrics.json").read_text() == (right / "metrics.json").read_text()


def test_a_finished_run_without_its_checkpoints_is_not_trained_anew(stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    before = (stopped / "model.safetensors").read_bytes()
    with pytest.raises(WeightsError, match=rf"it has a model: .*CONFIG weights={re.escape(str(stopped))}"):
        resume(stopped)
    assert (stopped / "model.safetensors").read_bytes() == before


@pytest.mark.integration
def test_resuming_at_another_size_and_with_worse_epochs_is_said(
    stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densevit.training.callbacks.best_epoch.BestEpoch.beats", lambda *_: False)
    resume(stopped, ["data.image_size=48"])
    said = capsys.readouterr().out
    assert "data.image_size: 64 -> 48" in said
    assert f"To start a separate run from these weights: densevit train CONFIG weights={stopped}" in said
    assert re.search(r"those of the best epoch; no improvement in [2-4] later validations", said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("width: 32", "width: 64", "heads.detection.transformer.width: 32 -> 64"),
        ("name: adamw", "name: sgd", "optim.name: 'adamw' -> 'sgd'"),
        ("variant: nano", "variant: tiny", "backbone.variant: 'nano' -> 'tiny'"),
        ("seed: 0", "seed: 1", "seed: 0 -> 1"),
        ("layer_decay: 1.0", "layer_decay: 0.9", "optim.layer_decay: 1.0 -> 0.9"),
    ],
)
def test_edit_that_changes_the_model_is_named(stopped: Path, old: str, new: str, said: str) -> None:
    before = (stopped / "checkpoints" / "last.ckpt").read_bytes()
    edit(stopped, old, new)
    with pytest.raises(ConfigError, match=re.escape(said)):
        resume(stopped)
    assert (stopped / "checkpoints" / "last.ckpt").read_bytes() == before


def test_valid_edit_is_printed_and_applied(
    stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from densevit.training.callbacks.checkpointing import Checkpointing

    edit(stopped, "lr: 0.001", "lr: 0.0005")
    edit(stopped, "weight_decay: 0.0001", "weight_decay: 0.01")
    edit(stopped, "schedule: cosine", "schedule: constant")
    used: list[tuple[float, float]] = []
    original = Checkpointing.on_train_batch_end

    def noted(self: Checkpointing, trainer, *rest) -> None:  # type: ignore[no-untyped-def]  # Lightning's own arguments
        groups = trainer.optimizers[0].param_groups
        used.append((groups[0]["lr"], max(group["weight_decay"] for group in groups)))
        original(self, trainer, *rest)

    monkeypatch.setattr(Checkpointing, "on_train_batch_end", noted)
    resume(stopped, ["optim.betas=[0.8,0.9]"])
    printed = capsys.readouterr().out
    for line in ("optim.lr: 0.001 -> 0.0005", "optim.weight_decay: 0.0001 -> 0.01", "trainer.max_steps: 2 -> 4"):
        assert line in printed
    assert used == [(0.0005, 0.01)] * 2
    checkpoint = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["betas"] == (0.8, 0.9)


def test_inference_of_a_head_can_change(tmp_path: Path) -> None:
    from densevit.training.run.resuming import changes

    (tmp_path / "tiny.yaml").write_text(TINY)
    file = tmp_path / "tiny.yaml"
    before = configs.load(file)
    [head] = before.heads
    after = configs.load(file, [f"heads.{head}.inference.window=64"])
    assert changes(before, before) == {}
    assert changes(before, after)[f"heads.{head}.inference.window"] == "null -> 64"
    assert all(key.startswith(f"heads.{head}.inference") for key in changes(before, after))
    with pytest.raises(ConfigError, match=f"heads.{head}.inference_steps: null -> 3"):
        changes(before, configs.load(file, [f"heads.{head}.inference_steps=3"]))


@pytest.mark.parametrize("decay", ["0", "0.0"])
def test_edit_that_joins_parameter_groups_is_named(stopped: Path, decay: str) -> None:
    edit(stopped, "weight_decay: 0.0001", f"weight_decay: {decay}")
    with pytest.raises(
        ConfigError, match=r"optim: .* make 1 parameter groups of .*Fix: keep optim\.weight_decay above 0"
    ):
        resume(stopped)


@pytest.mark.integration
def test_unedited_config_prints_nothing(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume(stopped)
    capsys.readouterr()
    resume(stopped)
    assert "->" not in capsys.readouterr().out.replace("swin -> detection", "")


@pytest.mark.parametrize("named", ["run", "last.ckpt"])
def test_a_checkpoint_of_another_format_is_one_line_and_no_file_changes(
    stopped: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    path = stopped / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    del content["format_version"]  # checkpoints had no number before
    torch.save(content, path)
    before = {file: file.read_bytes() for file in stopped.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert main(["train", "--resume", str(stopped if named == "run" else path)]) == 2
    fix = "Fix: use commit ddbb1ccf of densevit, the last that reads it, or train again."
    assert capsys.readouterr() == ("", f"{path}: format version 1, expected 2. {fix}\n")
    assert {file: file.read_bytes() for file in stopped.rglob("*") if file.is_file()} == before


def test_mismatched_classes_or_tensors_are_named(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stopped / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    key = "model.heads.detection.label_head.weight"
    shape = tuple(content["state_dict"][key].shape)
    changed = {**content, "state_dict": {**content["state_dict"], key: torch.zeros(2, 2)}}
    torch.save(changed, path)
    with pytest.raises(WeightsError, match=rf"{key} has shape \(2, 2\); the model has \({shape[0]}, {shape[1]}"):
        resume(stopped)
    torch.save({**content, "classes": {"detection": ["cat", "dog"]}}, path)
    with pytest.raises(WeightsError, match=r"heads\.detection was trained on the classes cat, dog; the data now has"):
        resume(stopped)


@pytest.mark.integration
@linux
def test_running_training_locks_its_folder(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    run = tmp_path / "long"
    long = configs.load(tmp_path / "tiny.yaml", ["trainer.max_steps=100000", "trainer.checkpoint_every=1"])
    process = child(lambda: train(long, run))
    try:
        wait_for(run / "checkpoints" / "last.ckpt", process)
        with pytest.raises(
            ConfigError, match=rf"long: is in use by process {process.pid} on .*Fix: wait until it ends"
        ):
            resume(run)
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    again = child(lambda: resume(run, ["trainer.max_steps=1"]))  # training is complete
    again.join(120)
    assert again.exitcode == 0


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


@pytest.mark.integration
def test_a_run_folder_named_like_a_checkpoint_is_a_run(
    tmp_path: Path, copied_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied_run(TINY, ["trainer.max_steps=1"], name="detr.ckpt")
    assert resume(run, ["trainer.max_steps=2"]) == run
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert resume(run / "checkpoints" / "last.ckpt") == run
    for name, content in (("empty.ckpt", ()), ("other.ckpt", ("photo.jpg",))):
        (tmp_path / name).mkdir()
        for file in content:
            (tmp_path / name / file).write_text("")
        for command in (["train", "--resume"], ["evaluate"], ["export"], ["report"]):
            assert main([*command, str(tmp_path / name)]) == 2, command
            error = capsys.readouterr().err
            assert name in error and error.count("\n") == 1, command


@pytest.mark.integration
@linux
def test_full_disk_preserves_the_previous_checkpoint(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file size limit simulates a full disk: the write fails in the middle."""

    path, said = stopped / "checkpoints" / "last.ckpt", tmp_path / "said"
    before = path.read_bytes()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no-such-folder"))  # nothing may be written there

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2,) * 2)
        try:
            resume(stopped, ["trainer.checkpoint_every=1"])
        except TrainingError as error:
            said.write_text(str(error))

    process = child(fill)
    process.join(120)
    assert said.read_text() == (
        f"{path} cannot be written: File too large. The previous checkpoint is unchanged. "
        f"Resume from the last checkpoint with: densevit train --resume {stopped}"
    )
    assert path.read_bytes() == before
    assert not list(stopped.rglob("*.partial"))
    resume(stopped)
    assert torch.load(path, weights_only=True)["global_step"] == 4


@pytest.mark.integration
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EXDEV, errno.EIO])
def test_failing_rename_preserves_the_previous_checkpoint(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As on a network disk."""
    folder = stopped / "checkpoints"
    before, replace = (folder / "last.ckpt").read_bytes(), Path.replace

    def fail(self: Path, target: Path) -> Path:
        if Path(target).name == "last.ckpt":
            raise OSError(number, os.strerror(number), str(self), None, str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    said = rf"last\.ckpt cannot be written: {os.strerror(number)}\. The previous .* is unchanged\. Resume from"
    with pytest.raises(TrainingError, match=said):
        resume(stopped, ["trainer.checkpoint_every=1", "trainer.evaluate_every=1"])
    monkeypatch.undo()
    assert (folder / "last.ckpt").read_bytes() == before
    assert not list(stopped.rglob("*.partial"))
    assert torch.load(resume(stopped) / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.integration
@linux
def test_full_disk_preserves_the_model_of_the_best_epoch(stopped: Path, tmp_path: Path) -> None:
    model, said = stopped / "model.safetensors", tmp_path / "said"
    before = model.read_bytes()

    def fill() -> None:
        BestEpoch.improves = lambda self, metrics: True  # type: ignore[method-assign]
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2,) * 2)
        try:
            resume(stopped, ["trainer.checkpoint_every=1000"])
        except TrainingError as error:
            said.write_text(str(error))

    child(fill).join(120)
    assert said.read_text() == (
        f"{model} cannot be written: File too large. "
        f"Resume from the last checkpoint with: densevit train --resume {stopped}"
    )
    assert model.read_bytes() == before
    assert not list(stopped.rglob("*.partial"))


@pytest.mark.parametrize(("key", "expected"), [("exp_avg", r"\(\d+(, \d+)*,?\)"), ("step", r"\(\)")])
def test_optimizer_tensor_of_another_shape_is_named(
    stopped: Path, key: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's fused kernels do not check it, and end the process by SIGSEGV."""
    path = stopped / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["optimizer_states"][0]["state"][3][key] = torch.zeros(2, 2, 2)
    torch.save(content, path)
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", None)  # must not be reached
    with pytest.raises(
        WeightsError,
        match=rf"last\.ckpt: the optimiser's {key} of model\.[\w.]+ has shape \(2, 2, 2\); expected {expected}\. Fix",
    ):
        resume(stopped)


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "metrics.csv"])
def test_damaged_file_of_the_best_epoch_is_named_before_training(
    stopped: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = b"step,epoch\n\xff\xfe\n" if name == "metrics.csv" else (stopped / name).read_bytes()[:-20]
    (stopped / name).write_bytes(damaged)
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", None)  # must not be reached
    with pytest.raises(
        (WeightsError, DataError), match=rf"{re.escape(str(stopped / name))}: .*(remove it|move it away)"
    ):
        resume(stopped)
    assert (stopped / name).read_bytes() == damaged


@pytest.mark.integration
@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json"])
def test_without_the_files_of_the_best_epoch_the_next_one_is_the_best(
    stopped: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stopped / "checkpoints" / "step-1.ckpt").unlink()  # of the best epoch
    (stopped / name).unlink()
    monkeypatch.setattr("densevit.training.callbacks.best_epoch.BestEpoch.beats", lambda *_: False)
    with pytest.warns(UserWarning, match=rf"has no {re.escape(name)} of its best epoch"):
        resume(stopped)
    assert "detection/AP" in metrics_file.read(stopped / "metrics.json")
    assert load_model(stopped).heads


@pytest.mark.integration
@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json"])
def test_the_files_of_the_best_epoch_are_written_again_from_its_checkpoint(
    stopped: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, metrics = load_model(stopped).state_dict(), (stopped / "metrics.json").read_text()
    (stopped / name).unlink()
    monkeypatch.setattr("densevit.training.callbacks.best_epoch.BestEpoch.beats", lambda *_: False)
    resume(stopped)
    assert (stopped / "metrics.json").read_text() == metrics
    assert all(torch.equal(state[key], value) for key, value in load_model(stopped).state_dict().items())


def test_folder_that_cannot_be_created_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "file").write_text("")
    assert main(["train", "tiny.yaml", "--run-dir", "file/run"]) == 2
    assert (
        capsys.readouterr().err == "--run-dir file/run: cannot be created: Not a directory. Fix: name another folder.\n"
    )


@linux
def test_read_only_run_folder_raises(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stopped / "config.yaml.partial").mkdir()  # simulates a read-only file system, also for root
    assert main(["train", "--resume", str(stopped)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{stopped}/config.yaml cannot be written: Is a directory.")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "setting",
    ["accelerator=gpu", "accelerator=cuda", "accelerator=tpu", "devices='0,2'", "devices=many", "strategy=foo"],
)
def test_missing_devices_raise_and_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert main(["train", "tiny.yaml", f"trainer.{setting}"]) == 2
    error = capsys.readouterr().err
    key, value = setting.split("=")
    value = value.strip("'")
    assert f"trainer.{key}={value}" in error
    assert "`auto`" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.integration
@linux
def test_killed_loader_process_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    original, parent = TransformedDataset.__getitem__, os.getpid()

    def killed(self: TransformedDataset, pick):  # type: ignore[no-untyped-def]
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, pick)

    config = configs.load(tmp_path / "tiny.yaml", ["data.num_workers=1"])
    monkeypatch.setattr(TransformedDataset, "__getitem__", killed)
    said = (
        r"^A data loader's process \(\d+\) (ended|was killed).*when memory runs out\. Fix: reduce data\.num_workers.*$"
    )
    with pytest.raises((DataError, TrainingError), match=said):
        train(config, tmp_path / "run")
