"""The layouts of docs/reference/layouts.md and own-backbone.md work."""

import re

import pytest
import torch

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
