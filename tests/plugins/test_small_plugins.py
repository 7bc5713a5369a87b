"""Smaller distributions of examples/plugins, installed as by pip: an optimiser, transforms, inspectors and heads."""

import json
from pathlib import Path

import pytest
import yaml

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.errors import ConfigError
from tests.training.runs import assert_same, weights, without_report

pytestmark = pytest.mark.integration

PACKAGES = ("lion", "zooms", "tokens")
SCENES = "data: {name: scenes, image_size: 64, batch_size: 2, num_workers: 0, train_length: 8, val_length: 2}"
CONFIG = f"""
seed: 0
backbone: {{name: swin, variant: nano, window_size: 4}}
heads: {{segmentation: {{name: setr, decoder: naive, width: 8}}}}
{SCENES}
optim: {{schedule: constant}}
trainer: {{max_steps: 4, accelerator: cpu, precision: 32}}
"""


@pytest.mark.parametrize(
    ("folder", "group", "overrides", "option"),
    [
        ("lion", "optimizers", ["optim.name=lion", "optim.cautious=true", "optim.betas=[0.5, 0.6]"], "optim.betas"),
        ("zooms", "transforms", ["data.transforms={name: zooms, smallest: 0.3}"], "data.transforms.smallest"),
    ],
)
def test_a_run_with_a_plugin_resumes_to_the_last_bit(
    folder: str, group: str, overrides: list[str], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(CONFIG)
    with without_report():
        whole = densevit.fit(values, overrides, run_dir=tmp_path / "whole")
        parts = densevit.fit(values, [*overrides, "trainer.max_steps=2"], run_dir=tmp_path / "parts")
        densevit.fit(resume=parts.path, overrides=["trainer.max_steps=4"])
    assert_same(weights(whole.path), weights(parts.path))
    key = option.rpartition(".")[2]
    message = rf"{option}x is not an option of '{folder}'\. Did you mean '{key}'"
    with pytest.raises(ConfigError, match=message):
        configs.check_plugins(configs.from_mapping(values, overrides=[*overrides, f"{option}x=1"]))
    capsys.readouterr()
    assert main(["plugins", group, "--json"]) == 0
    listed = {plugin["name"]: plugin["origin"] for plugin in json.loads(capsys.readouterr().out)["plugins"]}
    assert listed[folder] == f"{folder} 0.1"


# ---- a backbone and a head that share the last blocks, as docs/own-head.md describes ----
