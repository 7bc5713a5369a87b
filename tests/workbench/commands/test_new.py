"""`densevit new` writes a distribution that installs, passes its own test and trains without changes."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from densevit import config, registry
from densevit.cli import main

DATA = "{name: scenes, image_size: 64, batch_size: 2, num_workers: 0, train_length: 4, val_length: 2}"
CASES = [("backbone", "own-net", "own_net", "OwnNet"), ("head", "ownhead", "ownhead", "Ownhead")]


def python(*command: str, cwd: Path, **variables: str) -> str:
    """Returns the stdout of a Python process; fails with its stderr."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a new distribution of each kind."""
    out = tmp_path_factory.mktemp("written")
    further = ("head ownmap --task segmentation", "task owntask", "method ownway")
    for words in (*(f"{kind} {given}" for kind, given, *_ in CASES), *further):
        assert main(["new", *words.split(), "--out", str(out)]) == 0
    others = {"segmentation head": out / "ownmap", "task": out / "owntask", "method": out / "ownway"}
    return {kind: out / name for kind, _, name, _ in CASES} | others


BUILD = """
import os, sys
import setuptools.build_meta as backend
for source in sys.argv[2:]:
    if (pid := os.fork()) == 0:  # setuptools builds one distribution per process
        os.chdir(source)
        backend.build_editable(sys.argv[1])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, source
"""
TEST = """
import contextlib, io, json, os, sys
import pytest
found = {}
for folder in sys.argv[1:]:
    os.chdir(folder)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        pytest.main(["-q", "-p", "no:cacheprovider"])
    found[folder] = said.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def site(written: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, installed as by `pip install -e`."""
    folder = tmp_path_factory.mktemp("site")
    python("-c", BUILD, str(folder), *map(str, written.values()), cwd=folder)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture
def installed(site: Path, written: dict[str, Path], on_path: Any) -> Iterator[None]:
    """Adds the site with its metadata, and the folders of its .pth files, to this process's path."""
    lines = {Path(line.strip()) for file in site.glob("*.pth") for line in file.read_text().splitlines()}
    assert lines == set(written.values()), "setuptools hooks the import in place of a path"
    for place in (site, *lines):
        on_path(place)
    yield
    packages = {folder.name for folder in lines}
    for module in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[module]


@pytest.mark.integration
def test_generated_tests_pass(site, written):
    """All in one process."""
    folders = [str(folder) for folder in written.values()]
    said = json.loads(python("-c", TEST, *folders, cwd=site, PYTHONPATH=os.pathsep.join([str(site), *folders])))
    for kind, count in {"backbone": 1, "head": 1, "segmentation head": 1, "task": 4, "method": 1}.items():
        assert f"{count} passed" in said[str(written[kind])]


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "name", "cls"), [(kind, name, cls) for kind, _, name, cls in CASES])
def test_a_distribution_installs_under_its_name_with_a_config(kind, name, cls, written, installed):
    plugin = registry.find(f"{kind}s")[name]
    assert (plugin.value, plugin.origin) == (f"{name}:{cls}", f"{name} 0.1")
    file = written[kind] / "configs" / f"{name}.yaml"
    assert config.load(file, ["data=coco", "data.root=x"]).data.image_size == (800, 1333)


@pytest.mark.integration
def test_the_config_of_a_new_head_trains(written, installed, tmp_path):
    """That of a backbone is trained by docs/own-backbone.md."""
    file = written["head"] / "configs" / "ownhead.yaml"
    (tmp_path / "data.yaml").write_text(DATA)
    sections = [f"data={tmp_path / 'data.yaml'}", "trainer.max_steps=2", "trainer.accelerator=cpu"]
    assert main(["train", str(file), *sections, "--run-dir", str(tmp_path / "run")]) == 0
    assert "detection/AP" in json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_generated_code_is_formatted_and_linted(written, tmp_path):
    folders = [str(folder) for folder in written.values()]
    python("-m", "ruff", "format", "--no-cache", "--check", *folders, cwd=tmp_path)
    python("-m", "ruff", "check", "--no-cache", "--select", "E,F,I,N,UP,B,SIM,RUF", *folders, cwd=tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("backbone 2net", "'2net' cannot be a package's name"),
        ("backbone lambda", "'lambda' is the name of an installed module or a keyword"),
        ("backbone swin", "already a backbone 'swin'"),
        ("task keypoints", "already a target type 'keypoints'"),
        ("backbone own --task segmentation", "--task segmentation"),
        ("neck x", "usage: densevit new "),
    ],
)
def test_invalid_name_is_refused_before_writing(words, said, tmp_path, run):
    assert said in run("new", *words.split(), "--out", tmp_path / "out", code=2)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path, run):
    (tmp_path / "own_net").mkdir()
    file = tmp_path / "own_net" / "mine.txt"
    file.write_text("mine")
    for out, said in ((tmp_path, "own_net is not empty. Fix: name a new folder"), (file, "mine.txt is not a folder")):
        assert said in run("new", "backbone", "own-net", "--out", out, code=2)
    assert [*file.parent.iterdir()] == [file]
