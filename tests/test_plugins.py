"""A third-party distribution, built and installed as by pip: `densevit plugins` lists it, and it trains."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from densevit import registry
from densevit.cli import main

DETECTION = """
seed: 0
backbone: {name: mynet, width: 16}
heads:
  detection: {name: detr, num_queries: 5, width: 16, num_heads: 2, encoder_layers: 1, decoder_layers: 1, feedforward: 8}
data: {name: scenes, image_size: 64, batch_size: 2, num_workers: 0, train_length: 4, val_length: 4}
trainer: {max_steps: 2, accelerator: cpu}
"""
COUNTING = """
seed: 0
backbone: {name: resnet, depth: 18}
heads:
  objects: {name: counter, width: 8}
data: {name: squares, image_size: 64, batch_size: 2, num_workers: 0, length: 4}
trainer: {max_steps: 2, accelerator: cpu}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """tests/third_party as a wheel, installed as by pip: mynet's modules and its dist-info."""
    source, folder = tmp_path_factory.mktemp("source") / "mynet", tmp_path_factory.mktemp("site")
    shutil.copytree(project / "tests" / "third_party", source)
    build = "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, check=True, capture_output=True)
    wheel = next(folder.glob("*.whl"))
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def densevit(*arguments: str, site: Path, cwd: Path) -> str:
    """Output of the command line, in a process with mynet on its path."""
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "densevit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_plugins_command_lists_third_party_and_built_in_plugins(site, tmp_path):
    printed = " ".join(densevit("plugins", site=site, cwd=tmp_path).split())
    assert " mynet mynet 0.1 Five convolutions, each of which halves the image; a feature from" in printed
    assert "heads counter mynet 0.1 How many objects there are, from the mean of the coarsest feature." in printed
    assert "datasets squares mynet 0.1 Grey images with up to four white squares." in printed
    assert "evaluators counting mynet 0.1 How far counts are off," in printed
    assert "heads detr densevit 0." in printed


@pytest.mark.parametrize(
    ("config", "metrics"),
    [(DETECTION, {"detection/AP", "detection/AP50"}), (COUNTING, {"objects/error", "objects/exact"})],
    ids=["its backbone under detr", "its head, data set and evaluator on a resnet"],
)
def test_third_party_plugins_train_two_steps(config, metrics, site, tmp_path):
    (tmp_path / "own.yaml").write_text(config)
    densevit("train", "own.yaml", "--run-dir", "run", site=site, cwd=tmp_path)
    assert metrics <= set(json.loads((tmp_path / "run" / "metrics.json").read_text()))
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_every_built_in_plugin_is_listed_with_a_description(project):
    setup = configparser.ConfigParser()
    setup.read(project / "setup.cfg")
    for group in registry.GROUPS:
        lines = setup["options.entry_points"].get(f"densevit.{group}", "").split("\n")
        written = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines if line)}
        found = {name: plugin for name, plugin in registry.find(group).items() if plugin.origin.startswith("densevit ")}
        assert {name: plugin.value for name, plugin in found.items()} == written, "run `pip install -e .` again"
        for name, plugin in found.items():
            loaded = registry.load(group, name)
            documented = loaded if isinstance(loaded, type) else sys.modules[plugin.value.partition(":")[0]]
            assert documented.__doc__.startswith(registry.first_line(plugin))
            assert registry.first_line(plugin).endswith(".")


def test_plugins_of_one_group(capsys):
    assert main(["plugins", "heads"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("heads ") for line in lines)
