"""Invalid arguments of each command: unreadable or read-only paths, folders without runs, options out of range."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from densevit import atomic_io, registry
from tests.robustness.conftest import Refused

LONG = "n" * 300  # longer than file names may be
DEEP = "d/" * 3000  # longer than paths may be


@pytest.fixture(autouse=True)
def _folder(tiny: str, tiny_run: Path, tmp_path: Path) -> None:
    """tiny.yaml, a run, an image, a file, an empty folder, folders without and with images of one name, and settings
    of a prediction."""
    shutil.copytree(tiny_run, tmp_path / "run")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("x")
    for folder in ("empty", "texts", "one", "two", "predicted"):
        (tmp_path / folder).mkdir()
    (tmp_path / "predicted" / "predict.json").write_text('{"model": "run"}')
    (tmp_path / "texts" / "a.txt").write_text("x")
    shutil.copy(tmp_path / "a.png", tmp_path / "one")
    shutil.copy(tmp_path / "a.png", tmp_path / "two")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")


PATHS = {LONG: "name too long", DEEP: "name too long", "file/x": "", "loop/x": ""}


# PATH stands for each path of PATHS.
@pytest.mark.parametrize(
    "arguments",
    (
        ("train", "--resume", "PATH"),
        ("train", "tiny.yaml", "weights=PATH"),
        ("predict", "PATH", "a.png"),
        ("predict", "run", "PATH"),
    ),
    ids=" ".join,
)
def test_invalid_path_is_refused(refused: Refused, arguments: tuple[str, ...]) -> None:
    """A name and a path that are too long, a path under a file and under a link to itself."""
    for path, says in PATHS.items():
        message = refused(*(argument.replace("PATH", path) for argument in arguments), says=(path[:90], says))
        assert len(message) < 7000


WRONG: dict[tuple[str, ...], str] = {
    ("nope",): "there is no command 'nope'",
    ("train", "--resume", "empty"): "there is no empty/checkpoints/last.ckpt",
    ("evaluate", "empty"): "empty/model.safetensors: no such file. Name a file, or a folder with one of",
    ("evaluate", "run", "--out", "file"): "file is a file. Fix: name a new folder",
    ("predictions", "evaluate", "empty"): "empty has no predict.json, so no predictions",
    ("predict", "run", "a.png", "--threshold", "nan"): "--threshold is nan; a score from 0 to 1 is expected",
    ("predict", "run", "a.png", "--window", "x"): "'x' is not a side",
    ("convert", "run", "out"): "run: is already in densevit's layout",
    ("scenes", "--out", "run"): "run exists and is not an empty folder",
    ("check", "backbone", "swin", "varient=tiny"): "Did you mean 'variant'",
}  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG, ids=lambda arguments: " ".join(arguments)[:60])
def test_invalid_argument_is_refused(tmp_path: Path, refused: Refused, arguments: tuple[str, ...]) -> None:
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    refused(*arguments, says=(WRONG[arguments],))
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


# Each command that writes, and what the message ends with. The run has no model, and no data set is there: a command
# that loads them has another error.
READ_ONLY = (
    (("train", "tiny.yaml"), "--run-dir DIR"),
    (("train", "--resume", "run"), "weights=run in a new run"),
    (("evaluate", "run"), "--out DIR"),
    (("evaluate", "run", "--out", "new"), "another path"),
    (("predict", "run", "a.png"), "--out DIR"),
    (("predict", "run", "a.png", "--out", "run", "--resume"), "--out DIR"),
    (("report", "run"), "--out FILE"),
    (("join", "run", "run", "--out", "new.safetensors"), "name a file with --out FILE"),
    (("export", "run"), "--out FILE"),
    (("convert", "run", "new"), "another path"),
    (("scenes", "--count", "1", "--out", "empty"), "another path"),
    (("inspect", "run", "a.png"), "another path"),
    (("doctor", "one"), "--out FILE"),
    (("shard", "tiny.yaml", "new"), "another path"),
    (("benchmark", "tiny.yaml"), "--out DIR"),
    (("probe", "pixels", "--protocol", "quick"), "--out FILE"),
    (("data", "convert", "yolo", "one", "new"), "another path"),
    (("data", "prelabel", "run", "one", "new.json"), "another path"),
    (("predictions", "evaluate", "predicted"), "--out DIR"),
    (("predictions", "join", "predicted"), "make it writable"),
)
WRITE_NOTHING = {"plugins", "check", "config", "models", "new", "predictions status"}  # new loads nothing


@pytest.mark.parametrize(("arguments", "fix"), READ_ONLY, ids=lambda value: " ".join(value) if value[0] != "-" else "")
def test_read_only_folder_is_refused_before_anything_is_loaded(
    arguments: tuple[str, ...], fix: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    (tmp_path / "run" / "model.safetensors").unlink()
    monkeypatch.setattr(atomic_io, "TemporaryFile", read_only)  # also for root
    message = refused(*arguments, says=("cannot be written: ", ": Read-only file system. "))
    assert message.strip().endswith(f"{fix}.") and "\n" not in message.strip()


def test_every_command_that_writes_is_tested_with_a_read_only_folder() -> None:
    tested = {" ".join(arguments[: 2 if arguments[0] in ("data", "predictions") else 1]) for arguments, _ in READ_ONLY}
    assert tested | WRITE_NOTHING == set(registry.find("commands"))


# ---- messages ----


def test_control_characters_and_undecodable_names_are_escaped(refused: Refused) -> None:
    message = refused("predict", "run", "\x1b[31m\x07\x9b.png", says=("\\x1b[31m\\x07\\x9b.png",))
    assert not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in message.replace("\n", ""))
    refused("predict", "run", os.fsdecode(b"\xff.png"), says=("\\udcff.png: there is no such file",))
