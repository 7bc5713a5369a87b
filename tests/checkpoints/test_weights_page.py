"""The layouts of docs/reference/layouts.md and own-backbone.md work."""

import re
import sys

import pytest
import torch
import yaml

import densevit
from densevit import registry
from densevit.cli import main
from densevit.weights.checkpoint_io import read
from tests.weights.states import assert_state


@pytest.fixture
def page(project):
    return (project / "docs" / "reference" / "layouts.md").read_text()


def test_example_of_a_custom_layout_works(page, install, tmp_path, capsys):
    import torchvision

    code = re.search(r"```python\n(\"\"\"acme.*?)```", page, re.DOTALL)[1]
    entry_points = re.search(r"```ini\n\[options.entry_points\]\n(.*?)```", page, re.DOTALL)[1]
    assert len(code.splitlines()) <= 10
    install("acme", re.sub(r"(densevit\.checkpoints) =\n +", r"[\1]\n", entry_points), {"acme.py": code})
    assert "acme-resnet" in registry.find("checkpoints")
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
    inside = {f"model.teacher.{name}": tensor for name, tensor in theirs.items()}
    torch.save(inside | {"model.scale": torch.ones(1)}, tmp_path / "inside.pth")
    for i, options in enumerate(([], ["--prefix", "model.teacher."])):
        assert main(["convert", str(tmp_path / "inside.pth"), str(tmp_path / f"inside{i}"), *options]) == 0
        assert "'model.teacher.'" in capsys.readouterr().out
        assert_state(read(tmp_path / f"inside{i}").tensors, ours)


def test_a_backbone_s_own_checkpoints_load_by_the_layout_of_its_page(project, install, tmp_path, capsys, monkeypatch):
    for module in ("mynet", "mynet.checkpoints"):
        monkeypatch.setitem(sys.modules, module, None)  # so that it is removed after the test
        del sys.modules[module]
    page = (project / "docs" / "own-backbone.md").read_text()
    backbone, layout = (
        re.search(rf"```python\n(\"\"\"{start}.*?)```", page, re.DOTALL)[1] for start in ("A ", "Checkpoints ")
    )
    entry_points = "[densevit.backbones]\nmynet = mynet:Mynet\n[densevit.checkpoints]\n"
    entry_points += re.search(r"```ini\ndensevit.checkpoints =\n +(.*?)```", page, re.DOTALL)[1]
    install("mynet", entry_points, {"mynet/__init__.py": backbone, "mynet/checkpoints.py": layout})
    ours = densevit.create_backbone("mynet", width=8, depth=3).state_dict()
    theirs = {re.sub(r"^stages\.(\d)", r"layer\1", name): tensor for name, tensor in ours.items()}
    theirs = {name.replace("stem.0", "conv1").replace("stem.1", "norm1"): tensor for name, tensor in theirs.items()}
    torch.save(theirs | {"fc.weight": torch.ones(5, 64)}, tmp_path / "released.pth")
    assert main(["convert", str(tmp_path / "released.pth"), str(tmp_path / "out")]) == 0
    assert "Read as mynet-released." in capsys.readouterr().out
    section = yaml.safe_load((tmp_path / "out" / "backbone.yaml").read_text())
    assert (section["name"], section["width"], section["depth"]) == ("mynet", 8, 3)
    converted = read(tmp_path / "out").tensors
    assert all(torch.equal(converted[f"backbone.{name}"], tensor) for name, tensor in ours.items())
