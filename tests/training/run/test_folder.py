"""densevit/training/run/folder.py: where a run is written."""

from pathlib import Path

import pytest

import densevit
from densevit import config as configs
from densevit.errors import ConfigError, WeightsError
from tests.training.runs import resume, train


@pytest.fixture
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from densevit.training.run import fit

    monkeypatch.setattr(fit, "_train", lambda *_: 0)
    monkeypatch.setattr(fit, "finish", lambda *_: [])


def test_non_empty_folder_is_not_modified(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all my work")
    with pytest.raises(ConfigError, match="is not empty"):
        train(configs.load(tiny), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.usefixtures("without_training", "cwd")
def test_the_folder_is_the_next_free_one_named_like_the_config(tiny: Path) -> None:
    assert densevit.fit("tiny.yaml").path == Path("runs/tiny")
    assert densevit.fit("tiny.yaml").path == Path("runs/tiny-2")
    assert densevit.fit(configs.load(tiny)).path == Path("runs/run")
    assert densevit.fit(configs.load(tiny), name="mine").path == Path("runs/mine")


def test_errors_before_a_training_leave_no_folder(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"last\.ckpt"):
        resume(tmp_path)
    with pytest.raises(ConfigError, match=r"trainer\.monitor.*detection/AP"):
        train(configs.load(tiny, ["trainer.monitor=detection/APP"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
