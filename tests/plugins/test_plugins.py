"""A third-party distribution, built and installed as by pip: `densevit plugins` lists it, and it trains."""

import configparser
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from densevit import registry
from tests.training.process_groups import Command

pytestmark = pytest.mark.integration

DETECTION = """
seed: 0
backbone: {name: mynet, width: 16}
heads:
  detection:
    name: detr
    num_queries: 5
    transformer: {width: 16, num_heads: 2, encoder_layers: 1, decoder_layers: 1, feedforward: 8}
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
def site(third_party: Callable[[str], Path]) -> Path:
    """mynet's modules and its dist-info."""
    return third_party("mynet")


def run_command(*arguments: str, site: Path, cwd: Path) -> str:
    """Output of the command line with mynet on its path."""
    done = Command(*arguments, folder=cwd, path=[site]).ended()
    assert done.code == 0, done.output + done.errors
    return done.output


def test_plugins_command_lists_third_party_and_built_in_plugins(site, tmp_path):
    printed = " ".join(run_command("plugins", site=site, cwd=tmp_path).split())
    assert " mynet mynet 0.1 Five convolutions of stride 2; the last three" in printed
    for line in (
        "heads counter mynet 0.1 How",
        "datasets squares mynet 0.1 Grey",
        "evaluators counting mynet 0.1 How far",
        "checkpoints mynet-released mynet 0.1 Checkpoints of the authors'",
        "heads detr densevit 0.",
    ):
        assert line in printed


def test_a_strangers_command_is_listed_and_runs(site, tmp_path):
    listed = run_command("--help", site=site, cwd=tmp_path)
    assert re.search(r"^  parameters +Counts the parameters of a backbone\.$", listed, re.MULTILINE)
    printed = run_command("parameters", "mynet", "--json", site=site, cwd=tmp_path)
    assert json.loads(printed) == {"backbone": "mynet", "parameters": 445_824}
    done = Command("parameters", "broken", folder=tmp_path, path=[site]).ended()
    assert done.code == 2
    assert done.errors.startswith("The command 'parameters broken' (mynet.nowhere, from mynet 0.1) cannot be imported:")


@pytest.mark.parametrize(
    ("config", "metrics"),
    [(DETECTION, {"detection/AP", "detection/AP50"}), (COUNTING, {"objects/error", "objects/exact"})],
    ids=["its backbone under detr", "its head, data set and evaluator on a resnet"],
)
def test_third_party_plugins_train_two_steps(config, metrics, site, tmp_path):
    (tmp_path / "own.yaml").write_text(config)
    run_command("train", "own.yaml", "--run-dir", "run", site=site, cwd=tmp_path)
    assert metrics <= set(json.loads((tmp_path / "run" / "metrics.json").read_text()))
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_a_strangers_checkpoint_is_recognised_loaded_and_converted(site, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        ours = importlib.import_module("mynet").MyNet(16).state_dict()
    names = {"stem.0": 1, "stem.1": 2, "stages.0": 3, "stages.1": 4, "stages.2": 5}
    kinds = {"0": "conv", "1": "norm"}

    def name(key: str) -> str:
        part, index, leaf = key.rsplit(".", 2)
        return f"{kinds[index]}{names[part]}.{leaf}"

    released = {name(key): x.normal_() for key, x in ours.items()} | {"fc.weight": torch.ones(9, 64)}
    torch.save(released, tmp_path / "released.pth")
    (tmp_path / "own.yaml").write_text(DETECTION)
    overrides = ["backbone.weights=released.pth", "backbone.freeze=true"]
    printed = " ".join(
        run_command("train", "own.yaml", *overrides, "--run-dir", "run", site=site, cwd=tmp_path).split()
    )
    assert "released.pth: 20 tensors loaded, 1 left out. Read as mynet-released." in printed
    trained = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(trained[f"backbone.{key}"], tensor) for key, tensor in ours.items())
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["backbone"]["mean"] == [0.5, 0.5, 0.5]


def test_every_built_in_plugin_is_listed_with_a_description(project):
    setup = configparser.ConfigParser()
    setup.read(project / "setup.cfg")
    for group in registry.PLUGIN_GROUPS:
        lines = setup["options.entry_points"].get(f"densevit.{group}", "").split("\n")
        written = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines if line)}
        found = {name: plugin for name, plugin in registry.find(group).items() if plugin.origin.startswith("densevit ")}
        assert {name: plugin.value for name, plugin in found.items()} == written, "run `pip install -e .` again"
        for name, plugin in found.items():
            others = {"commands": registry.load_command, "names": registry.public_name}
            loaded = others[group](name) if group in others else registry.load(group, name)
            has_docstring = group == "names" or isinstance(loaded, type) or inspect.isfunction(loaded)
            documented = loaded if has_docstring else sys.modules[plugin.value.partition(":")[0]]
            assert documented.__doc__.startswith(registry.first_line(plugin))
            assert registry.first_line(plugin).endswith(".")
