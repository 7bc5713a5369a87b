"""Invalid input through the command line: each gives one clear message, exit code 2 and leaves no files."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from densevit.cli import main

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """`refused(*arguments, says=(...))` runs a command in tmp_path and returns what it printed to stderr.

    Asserts exit code 2, each text of `says` in the message, no traceback, ten lines at most, and no run folder.
    """
    monkeypatch.chdir(tmp_path)

    def refused(*arguments: str, says: tuple[str, ...] = ()) -> str:
        before = sorted(tmp_path.rglob("*.ckpt"))
        code = main(arguments)
        printed = capsys.readouterr()
        _check(code, printed.err, printed.out, says, tmp_path)
        assert sorted(tmp_path.rglob("*.ckpt")) == before
        return printed.err

    return refused


@pytest.fixture
def refused_in_child(tmp_path: Path) -> Refused:
    """Like `refused`, in a subprocess: for input that may hang or exhaust memory.

    seconds: limit of CPU time. gigabytes: limit of memory beyond that of the imports.
    """

    def refused_in_child(*arguments: str, says: tuple[str, ...] = (), seconds: int = 30, gigabytes: float = 6.0) -> str:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)

        done = subprocess.run(
            [sys.executable, "-m", "densevit", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=4 * seconds, preexec_fn=limit,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        _check(done.returncode, done.stderr, done.stdout, says, tmp_path)
        return done.stderr

    return refused_in_child


def _check(code: int, errors: str, output: str, says: tuple[str, ...], folder: Path) -> None:
    assert code == 2, (code, output[-500:], errors[-2000:])
    assert "Traceback" not in errors
    assert 0 < len(errors.strip().splitlines()) <= 10, errors
    for text in says:
        assert text in errors, errors
    assert not (folder / "runs").exists(), "a run folder was left"


HEAD = """\
{name: detr, num_queries: 4,
     transformer: {width: 32, num_heads: 2, encoder_layers: 1, decoder_layers: 1, feedforward: 32}}"""
TINY = f"""\
seed: 0
backbone: {{name: swin, variant: nano, window_size: 4}}
heads:
  boxes: {HEAD}
data: {{name: scenes, image_size: 64, batch_size: 2, train_length: 4, val_length: 2, num_workers: 0}}
trainer: {{max_steps: 1}}
"""


class Accepted(Exception):  # noqa: N818  # not an error
    """Raised when all checks have passed and training would begin."""


@pytest.fixture
def accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`accepted(*arguments)` runs a valid command in tmp_path; `train` stops where it creates its folder."""
    monkeypatch.chdir(tmp_path)

    def begin(*_: object, **__: object) -> Path:
        raise Accepted

    def accepted(*arguments: str) -> None:
        monkeypatch.setattr("densevit.training.run.fit.RunFolder.open", begin)
        try:
            assert main(arguments) == 0
        except Accepted:
            assert arguments[0] == "train"

    return accepted


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A config file in tmp_path with the text TINY, which trains a small DETR on scenes."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as after training with TINY, with random weights: config.yaml and model.safetensors."""
    from densevit import config as configs
    from densevit.data.build import build_data
    from densevit.inference.creating import build_model
    from densevit.weights import model_file

    folder = tmp_path_factory.mktemp("tiny") / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(TINY)
    config = configs.load(folder)
    model_file.save(build_model(config, build_data(config).classes), folder / "model.safetensors", config)
    return folder
