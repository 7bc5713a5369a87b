"""The commands that a training prints at its end run."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from densevit.cli import main
from tests.training.runs import SEGMENTATION


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
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("  densevit ")]
    assert [command[:2] for command in commands] == [
        ["evaluate", "runs/seg"], ["predict", "runs/seg"], ["export", "runs/seg"], ["train", "--resume"],
    ]  # fmt: skip
    evaluate, predict, _, resume = commands  # tests/exporting exports
    assert [main([*command, "--quiet"]) for command in (evaluate, predict)] == [0, 0]
    assert capsys.readouterr().out == ""
    assert main([*resume, "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["run"] == "runs/seg" and "densevit evaluate runs/seg" in output.err
