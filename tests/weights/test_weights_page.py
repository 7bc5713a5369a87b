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


def test_example_of_a_custom_layout_works(page, tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(\"\"\"acme.*?)```", page, re.DOTALL)[1]
    assert len(code.splitlines()) <= 10
    (tmp_path / "new").mkdir()
    (tmp_path / "new/acme.py").write_text(code)
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(tmp_path / "new")])
    layouts._layouts.cache_clear()
    try:
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
    finally:
        monkeypatch.undo()
        layouts._layouts.cache_clear()
