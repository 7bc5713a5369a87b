"""A model that stands in for a trained one, photos, and commands."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.cli import main
from tests.cli.stand_in import StandIn


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    model = StandIn(("detection",))
    monkeypatch.setattr("densevit.inference.model_loading.load", lambda *given: model)
    return model


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for n, name in enumerate(("a/1.jpg", "b/1.jpg", "b/000139.jpg", "b/cat.png")):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 50 + n, 3), 128, np.uint8)).save(name)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`run(*words, code=0)` runs a command that exits with this code, and returns what it writes, in one line."""

    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        found, written = main([*map(str, words)]), capsys.readouterr()
        assert found == code, written.err
        return " ".join((written.out + written.err).split())

    return run
