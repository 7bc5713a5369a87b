"""The final sections of a model: what its weights imply, where nothing is set, before anything is built."""

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit import config as configs
from densevit.config import Config
from densevit.interfaces import Class
from densevit.weights.model_file import save_backbone
from densevit.weights.pretrained_models import build_pretrained
from densevit.weights.resolving import resolve
from tests.checkpoints.authors_files import write_in_layout

SWIN = {"name": "swin", "variant": "nano", "window_size": 4}
CLASSES = {"maps": (Class("a", 0, (0, 0, 0)), Class("b", 1, (9, 9, 9)))}


@pytest.fixture
def swin(tmp_path: Path) -> str:
    """A file of Microsoft's layout, whose windows shift along both axes."""
    section = {**SWIN, "shift": "both_axes"}
    save_backbone(densevit.create_backbone(**section).eval(), section, tmp_path / "model.safetensors")
    write_in_layout(tmp_path, "microsoft-swin", tmp_path / "theirs.pth")
    return str(tmp_path / "theirs.pth")


def config_of(**backbone: Any) -> Config:
    section = {"name": "swin", "variant": "nano", **backbone}
    heads = {"maps": {"name": "setr", "decoder": "naive", "width": 8}}
    return configs.from_mapping(
        {"backbone": section, "heads": heads, "data": {"name": "scenes"}, "trainer": {"max_steps": 1}}
    )


def test_resolving_changes_neither_its_argument_nor_a_random_state(swin: str) -> None:
    config = config_of(weights=swin)
    before = config.model_dump()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    resolved = resolve(config, CLASSES)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert config.model_dump() == before
    assert resolved.sections != config and type(resolved.sections) is Config
    with pytest.raises(ValueError, match="frozen"):
        resolved.sections.backbone.name = "vit"


def test_options_that_are_not_set_become_those_of_the_weights_a_line_each(swin: str) -> None:
    resolved = resolve(config_of(weights=swin), CLASSES)
    assert resolved.sections.backbone.options == {"variant": "nano", "window_size": 4, "shift": "both_axes"}
    assert resolved.notes == [
        ("backbone", "backbone.shift is both_axes in place of per_axis: microsoft-swin computes with it."),
        ("backbone", "backbone.window_size is 4 in place of null: microsoft-swin computes with it."),
    ]
    again = resolve(resolved.sections, CLASSES)
    assert again.sections == resolved.sections and not again.notes


def test_a_value_that_is_set_stays_with_a_warning(swin: str) -> None:
    resolved = resolve(config_of(weights=swin, shift="per_axis", window_size=4), CLASSES)
    assert resolved.sections == config_of(weights=swin, shift="per_axis", window_size=4)
    [(key, line)] = resolved.notes
    assert key == "backbone"
    assert line == "Warning: backbone.shift is per_axis; microsoft-swin computes with both_axes."


def test_a_model_is_built_once_from_its_final_sections(swin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the random values of a model that has these options from the beginning."""
    from densevit_backbones.swin import Swin

    devices = []
    initialise = Swin.__init__

    @functools.wraps(initialise)
    def counted(self: Swin, *given: Any, **options: Any) -> None:
        initialise(self, *given, **options)
        devices.append(next(self.parameters()).device.type)

    config = config_of(weights=swin)
    final = resolve(config, CLASSES).sections
    torch.manual_seed(0)
    expected, _ = build_pretrained(final, CLASSES)
    monkeypatch.setattr(Swin, "__init__", counted)
    torch.manual_seed(0)
    model, _ = build_pretrained(config, CLASSES)
    assert devices == ["meta", "cpu"] and model.sections == final
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
