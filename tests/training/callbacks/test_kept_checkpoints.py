"""Checkpoints before the last: kept and pruned, and offered where the last one is damaged."""

import errno
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from densevit import config as configs
from densevit.cli import main
from densevit.errors import WeightsError
from tests.training.run.test_resume_safely import TINY
from tests.training.runs import resume, train

OVERRIDES = ["data.train_length=12", "trainer.checkpoint_every=1", "trainer.evaluate_every=1", "trainer.loggers=[]"]


def run_of(folder: Path, *overrides: str) -> Path:
    (folder / "tiny.yaml").write_text(TINY)
    return train(configs.load(folder / "tiny.yaml", [*OVERRIDES, *overrides]), folder / "run")


def steps_in(run: Path) -> dict[str, int]:
    files = sorted((run / "checkpoints").iterdir())
    return {file.name: torch.load(file, weights_only=True)["global_step"] for file in files}


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("3", {3, 4}),
        pytest.param("1", set(), marks=pytest.mark.integration),
        pytest.param("null", {1, 2, 3, 4}, marks=pytest.mark.integration),
    ],
)
def test_the_given_number_of_checkpoints_is_kept(keep: str, expected: set[int], tmp_path: Path) -> None:
    run = run_of(tmp_path, "trainer.max_steps=5", f"trainer.keep_checkpoints={keep}")
    found = steps_in(run)
    assert found.pop("last.ckpt") == 5
    assert found == {f"step-{step}.ckpt": step for step in expected}


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_bit_flipped(path: Path) -> None:
    """In the largest tensor, where only the checksum shows it."""
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    content[part.header_offset + len(part.filename) + 500] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps with the checkpoints of all of them."""
    return run_of(tmp_path_factory.mktemp("trained"), "trainer.max_steps=3", "trainer.keep_checkpoints=3")


@pytest.mark.parametrize("damage", [cut_short, emptied, one_bit_flipped, Path.unlink], ids=lambda f: f.__name__)
def test_a_damaged_last_checkpoint_is_recognised_and_the_one_before_offered(
    damage: Callable[[Path], object], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    damage(run / "checkpoints" / "last.ckpt")
    assert main(["train", "--resume", str(run)]) != 0
    before = run / "checkpoints" / "step-2.ckpt"
    [line] = [line for line in capsys.readouterr().err.splitlines() if "last.ckpt" in line]
    assert line.endswith(f"resume from the checkpoint of step 2: densevit train --resume {before}.")


@pytest.mark.integration
def test_the_checkpoint_before_goes_on_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    whole = load_file(run / "model.safetensors")
    for name in ("last.ckpt", "step-2.ckpt"):
        cut_short(run / "checkpoints" / name)
    assert resume(run / "checkpoints" / "step-1.ckpt") == run
    assert steps_in(run) == {"last.ckpt": 3, "step-1.ckpt": 1, "step-2.ckpt": 2}
    found = load_file(run / "model.safetensors")
    assert all(torch.equal(found[name], x) for name, x in whole.items())


def test_a_damaged_older_checkpoint_is_not_offered(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for name in ("last", "step-2"):
        emptied(run / "checkpoints" / f"{name}.ckpt")
    with pytest.raises(WeightsError, match=r"step 1: densevit train --resume .*step-1\.ckpt"):
        resume(run)


def test_without_another_checkpoint_the_fix_is_to_train_anew(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for path in (run / "checkpoints").glob("step-*.ckpt"):
        path.unlink()
    cut_short(run / "checkpoints" / "last.ckpt")
    with pytest.raises(WeightsError, match=r"last\.ckpt: not a complete checkpoint.*train again with the run's config"):
        resume(run)


def test_a_disk_without_hard_links_keeps_the_last_checkpoint_in_its_place(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed before it writes the next one is then resumed."""
    from densevit.training.callbacks.checkpointing import _keep_as

    folder = Path(shutil.copytree(trained, tmp_path / "run")) / "checkpoints"
    content = (folder / "last.ckpt").read_bytes()

    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links")

    monkeypatch.setattr("os.link", refused)
    _keep_as(folder / "last.ckpt", folder / "step-3.ckpt")
    assert (folder / "last.ckpt").read_bytes() == (folder / "step-3.ckpt").read_bytes() == content
    monkeypatch.setattr("shutil.copyfile", refused)  # a full disk
    _keep_as(folder / "last.ckpt", folder / "step-3.ckpt")
    assert (folder / "last.ckpt").read_bytes() == content
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step-1.ckpt", "step-2.ckpt"]
