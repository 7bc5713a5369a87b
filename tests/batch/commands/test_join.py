"""`densevit join`: one file, its scores, and what is refused before anything is written."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

import densevit
from tests.weights.joined_runs import BOXES, DEPTH, SURFACES, write_run


@pytest.fixture
def runs(cwd: Path) -> None:
    """The runs a, b and c in the working folder."""
    for seed, (name, heads) in enumerate({"a": BOXES, "b": SURFACES, "c": DEPTH}.items()):
        write_run(Path(name), heads, seed + 1, data={"depth": True, "seed": 5 * (name == "c")})


def header(file: str) -> dict[str, str]:
    with safe_open(file, framework="pt") as content:
        return content.metadata()


def test_one_file_and_one_of_heads(runs, run):
    shown = run("join", "a", "cells=b", "--out", "ab.safetensors")
    assert shown.startswith("head plugin from detection one_stage a cells setr b ab.safetensors: 0.")
    run("join", "c", "--heads-only", "--out", "c.safetensors")
    assert Path("c.safetensors").stat().st_size < 1e6 and header("c.safetensors")["part"] == "heads"
    result = json.loads(run("join", "ab.safetensors", "c.safetensors", "--trust", "--json", "--out", "abc.safetensors"))
    assert result["heads"] == {"detection": "ab.safetensors", "cells": "ab.safetensors", "depth": "c.safetensors"}
    assert [*densevit.load("abc.safetensors", trust=True).heads] == [*result["heads"]]


@pytest.mark.integration
def test_another_size_is_evaluated_on_the_data_of_each_head_and_both_scores_stand_in_the_file(runs, run):
    run("join", "c", "--heads-only", "--out", "c.safetensors")
    options = ("--trust", "--image-size", "48x64", "--stretch", "--evaluate", "--out", "bc.safetensors")
    assert "Evaluation model file difference surfaces/mIoU" in run("join", "b", "c.safetensors", *options)
    saved = json.loads(header("bc.safetensors")["evaluation"])
    alone = densevit.evaluate("b") | densevit.evaluate("c")
    assert {key: value for key, value in saved["model"].items() if value is not None} == {
        key: value for key, value in alone.items() if value == value
    }
    resized = {**densevit.load("b").training_data.options, "name": "scenes", "image_size": [48, 64]}
    resized["transforms"] = {"name": "resize", "stretch": True}
    assert saved["file"]["surfaces/mIoU"] == densevit.evaluate("b", data=resized)["surfaces/mIoU"]
    assert saved["file"]["depth/AbsRel"] != saved["model"]["depth/AbsRel"]
    Path("data.yaml").write_text("{name: scenes, depth: false, image_size: 64, val_length: 2}")
    assert "not evaluated: depth" in run("evaluate", "bc.safetensors", "--trust", "data=data.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "a", "--out", "x.safetensors"), "has a head 'detection' too. Fix: name it, NAME=a."),
        (("a", "b", "--out", "a/model.safetensors"), "exists. Name another path"),
        (("a", "b", "--stretch", "--out", "x.safetensors"), "--stretch: needs a size"),
        (("a", "missing", "--out", "x.safetensors"), "missing: no such file"),
        (("a", "a/config.yaml", "--out", "x.safetensors"), "a/config.yaml"),
    ],
)
def test_a_refusal_writes_nothing(runs, run, words, message):
    before = Path("a/model.safetensors").read_bytes()
    assert message in run("join", *words, code=2)
    assert not Path("x.safetensors").exists() and Path("a/model.safetensors").read_bytes() == before
