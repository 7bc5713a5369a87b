"""docs/weights.md: its table has all layouts, its configs exist, and its example works."""

import re

import pytest
import torch
import torchvision

from densevit import config as configs
from densevit.cli import main
from densevit.weights import layouts
from densevit.weights.checkpoint_io import read


@pytest.fixture
def page(project):
    return (project / "docs" / "weights.md").read_text()


def test_table_lists_every_layout(page):
    table = page.partition("## What loads")[2].partition("\n## ")[0]
    names = [
        name for row in table.splitlines() if row.startswith("|") for name in re.findall("`([^`]+)`", row.split("|")[3])
    ]
    assert set(names) == set(layouts.names())


def test_configs_on_the_page_are_shipped(page):
    for name in re.findall(r"configs/\S+\.yaml", page):
        configs.load(name)


def test_example_of_a_custom_layout_works(page, install, tmp_path, capsys):
    code = re.search(r"```python\n(\"\"\"acme.*?)```", page, re.DOTALL)[1]
    entry_points = re.search(r"```ini\n\[options.entry_points\]\n(.*?)```", page, re.DOTALL)[1]
    assert len(code.splitlines()) <= 10
    install("acme", re.sub(r"(densevit\.checkpoints) =\n +", r"[\1]\n", entry_points), {"acme.py": code})
    assert "acme-resnet" in layouts.names()
    theirs = {}
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    for name, tensor in state.items():
        name = re.sub(r"^layer(\d)", lambda match: f"stages.{int(match[1]) - 1}", name)
        name = name.replace("bn1.", "stem.norm.") if name.startswith("bn1.") else name
        theirs[re.sub("^conv1", "stem.conv", name).replace("fc.", "classifier.")] = tensor
    torch.save(theirs, tmp_path / "acme.pth")
    assert main(["convert", str(tmp_path / "acme.pth"), str(tmp_path / "ours")]) == 0
    assert "Read as acme-resnet." in capsys.readouterr().out
    ours = read(tmp_path / "ours").tensors
    assert all(torch.equal(ours[f"backbone.{name}"], state[name]) for name in state if not name.startswith("fc."))
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "back.pth"), "--to", "acme-resnet"]) == 0
    assert torch.load(tmp_path / "back.pth", weights_only=True).keys() == {
        name for name in theirs if not name.startswith("classifier.")
    }
