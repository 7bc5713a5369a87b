"""densevit/training/run/folder.py: where a run is written."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import densevit
from densevit import config as configs
from densevit.config import Source
from densevit.errors import ConfigError, WeightsError
from densevit.training.run.folder import keep, kept, kept_options
from tests.training.runs import SEGMENTATION, resume, train


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


class Taught(densevit.Method):
    """A method with weights in an option that is annotated as such, and in a section."""

    def __init__(self, model: Any, teacher: Source, network: dict[str, Any], kind: str = "a") -> None:
        super().__init__(model)


METHOD = {"name": f"{__name__}:Taught"}


def test_files_and_folders_are_linked_once_and_read_in_place_of_the_sources(tmp_path: Path) -> None:
    file, folder, run = tmp_path / "a.pt", tmp_path / "old", tmp_path / "run"
    folder.mkdir()
    for path in (file, *(folder / name for name in ("model.safetensors", "config.yaml", "metrics.csv"))):
        path.write_text(path.name)
    options = {"teacher": str(folder), "network": {"name": "net", "weights": str(file)}, "kind": str(file)}
    config = configs.from_mapping({**yaml.safe_load(SEGMENTATION), "weights": str(file), "method": METHOD | options})
    assert kept(str(file), run) == kept(str(file), None) == str(file) and kept_options(config.method, run) == options
    keep(config, run, None)
    for left in run.glob("sources/*"):  # as of a process that was killed
        left.rename(left.with_suffix(".partial"))
    keep(config, run, None)
    copy = Path(kept(str(file), run))
    assert copy.name == "a.pt" and os.path.samefile(copy, file)
    options |= {"teacher": kept(str(folder), run), "network": {"name": "net", "weights": str(copy)}}
    assert kept_options(config.method, run) == options
    copied = Path(options["teacher"])
    assert sorted(path.name for path in copied.iterdir()) == ["config.yaml", "model.safetensors"]
    file.unlink()
    file.write_text("another")
    shutil.rmtree(folder)
    keep(config, run, run)
    keep(config, tmp_path / "new", run)  # the run that continues an earlier checkpoint
    assert Path(kept(str(file), tmp_path / "new")).read_text() == copy.read_text() == "a.pt"
    assert run in copied.parents and kept_options(config.method, run) == options
