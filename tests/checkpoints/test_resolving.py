"""The final sections of a model: what its weights imply, where nothing is set, before anything is built."""

from pathlib import Path
from typing import Any

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
from tests.weights.states import equal

CLASSES = {"maps": (Class("a", 0, (0, 0, 0)), Class("b", 1, (9, 9, 9)))}


@pytest.fixture
def swin(tmp_path: Path) -> str:
    """A file of Microsoft's layout, whose windows shift along both axes."""
    section = {"name": "swin", "variant": "nano", "window_size": 4, "shift": "both_axes"}
    save_backbone(densevit.create_backbone(**section).eval(), section, tmp_path / "model.safetensors")
    write_in_layout(tmp_path, "microsoft-swin", tmp_path / "theirs.pth")
    return str(tmp_path / "theirs.pth")


def config_of(**backbone: Any) -> Config:
    section = {"name": "swin", "variant": "nano", **backbone}
    heads = {"maps": {"name": "setr", "decoder": "naive", "width": 8}}
    return configs.from_mapping(
        {"backbone": section, "heads": heads, "data": {"name": "scenes"}, "trainer": {"max_steps": 1}}
    )


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


def test_a_model_has_the_random_values_of_its_final_sections(swin: str) -> None:
    """Those of a model that has these options from the beginning."""
    config = config_of(weights=swin)
    final, models = resolve(config, CLASSES).sections, []
    for section in (final, config):
        torch.manual_seed(0)
        models.append(build_pretrained(section, CLASSES)[0])
    assert models[1].sections == final and equal(models[1].state_dict(), models[0].state_dict())
