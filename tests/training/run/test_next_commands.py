"""The commands that a training prints at its end: which there are, and that they run."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from PIL import Image

from densevit import config as configs
from densevit.cli import main
from densevit.model import DenseModel
from densevit.training.run.next_commands import next_commands
from tests.training.runs import SEGMENTATION

EXPORTED = SimpleNamespace(exported=lambda outputs, size: {})
DETECTION = {"detection": {"name": "one_stage"}}


@pytest.mark.parametrize(
    ("head", "data", "heads", "missing"),
    [
        (SimpleNamespace(), {"name": "coco", "root": "a"}, DETECTION, ["export"]),
        (EXPORTED, {"name": "coco", "root": "a"}, {"detection": {"name": "fcos", "evaluation": None}}, ["evaluate"]),
        (EXPORTED, {"name": "scenes"}, DETECTION, [" weights='my runs/a'"]),
        (EXPORTED, {"name": "images", "root": "a"}, {}, ["evaluate", "predict", "export", " weights='my runs/a'"]),
    ],
    ids=["no export", "no evaluator", "rendered data", "pretraining"],
)
def test_commands_are_those_that_the_model_can_do(head: Any, data: Any, heads: Any, missing: list[str]) -> None:
    """In a folder whose name is quoted."""
    given = {"backbone": {"name": "swin"}, "heads": heads, "data": data, "trainer": {"max_epochs": 50}}
    model = cast(DenseModel, SimpleNamespace(heads=dict.fromkeys(heads, head)))
    heading, *lines = next_commands(configs.from_mapping(given, "test"), model, Path("my runs/a"))
    printed = "\n".join(lines)
    every = {"evaluate", "predict", "export", "--resume 'my runs/a' trainer.max_epochs=100", " weights='my runs/a'"}
    assert heading == "Next:" and {word for word in every if word not in printed} == set(missing)


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_printed_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (48, 32)).save("street.png")
    config = yaml.safe_load(SEGMENTATION) | {"data": {"name": "scenes", "image_size": 32, "batch_size": 2}}
    Path("seg.yaml").write_text(yaml.safe_dump(config))
    short = ["trainer.max_epochs=null", "trainer.max_steps=1", "data.train_length=4", "data.val_length=2"]
    assert main(["train", "seg.yaml", *short]) == 0
    lines = capsys.readouterr().out.replace("IMAGE", "street.png").partition("Next:\n")[2].splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("  densevit ")]
    assert [command[:2] for command in commands] == [
        ["evaluate", "runs/seg"], ["predict", "runs/seg"], ["export", "runs/seg"], ["train", "--resume"],
    ]  # fmt: skip
    evaluate, predict, _, resume = commands  # tests/exporting exports
    assert [main([*command, "--quiet"]) for command in (evaluate, predict)] == [0, 0]
    assert capsys.readouterr().out == ""
    assert main([*resume, "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["run"] == "runs/seg" and "densevit evaluate runs/seg " in output.err
