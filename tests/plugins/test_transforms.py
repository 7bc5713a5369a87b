"""Transforms of a third party, installed as by pip: they train, resume, are listed, and name their options."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import densevit
from densevit.cli import main

pytestmark = pytest.mark.integration

CONFIG = """
seed: 0
backbone: {name: resnet, depth: 18}
heads: {segmentation: {name: setr}}
data:
  {name: scenes, transforms: {name: zooms, smallest: 0.3}, image_size: 64, batch_size: 2, num_workers: 0,
   train_length: 8, val_length: 2}
optim: {schedule: constant}
trainer: {max_steps: 4, accelerator: cpu, precision: 32}
"""


@pytest.fixture(scope="module", autouse=True)
def zooms(third_party: Callable[[str], Path]) -> Iterator[None]:
    """The distribution zooms on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(third_party("zooms"))
        yield
    sys.modules.pop("zooms", None)


def test_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"crop", "stretch", "zooms"} <= set(densevit.list_transforms())
    assert main(["plugins", "transforms", "--json"]) == 0
    listed = {plugin["name"]: plugin["origin"] for plugin in json.loads(capsys.readouterr().out)["plugins"]}
    assert listed["zooms"] == "zooms 0.1" and listed["crop"].startswith("densevit ")


def test_they_train_and_resume_to_the_same_weights(tmp_path: Path) -> None:
    values = yaml.safe_load(CONFIG)
    whole = densevit.fit(values, run_dir=tmp_path / "whole")
    densevit.fit(values, ["trainer.max_steps=2"], run_dir=tmp_path / "resumed")
    resumed = densevit.fit(resume=tmp_path / "resumed", overrides=["trainer.max_steps=4"])
    first, second = (load_file(run.path / "model.safetensors") for run in (whole, resumed))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    other = densevit.fit(values, ["data.transforms.smallest=0.9"], run_dir=tmp_path / "other")
    assert any(not torch.equal(first[key], value) for key, value in load_file(other.path / "model.safetensors").items())


def test_a_wrong_option_is_named(tmp_path: Path) -> None:
    message = r"data\.transforms\.smalest is not an option of 'zooms'\. Did you mean 'smallest'\? Options: smallest\."
    with pytest.raises(densevit.ConfigError, match=message):
        densevit.fit(yaml.safe_load(CONFIG), ["data.transforms.smalest=0.5"], run_dir=tmp_path / "run")
