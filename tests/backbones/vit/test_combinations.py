"""Combinations of a ViT's options: those of published models, shipped configs and layouts are built, others refused."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import densevit
from densevit import layouts
from densevit.config import yaml_io
from densevit_backbones.vit import ViT
from densevit_backbones.vit.combinations import PARTS
from densevit_backbones.vit.windows import Windows
from tests.backbones.test_contract import CASES
from tests.checkpoints.layouts.test_described import HEADS, ROWS


@pytest.mark.parametrize(
    ("options", "facts"),
    [  # from the papers' descriptions of their models
        ({"stem": "resnet", "positions": "rotary"}, ["positions", "stem 'resnet'", "Dosovitskiy"]),
        ({"stem": "resnet", "windows": Windows(4)}, ["windows", "stem 'resnet'", "must be null"]),
        ({"stem": "resnet", "registers": 4}, ["registers is 4", "stem 'resnet'"]),
        ({"stem": "conv", "positions": "relative"}, ["positions is 'relative'", "stem 'conv'", "Xiao"]),
        ({"weight_standardization": "std"}, ["stem is 'patch'", "weight_standardization 'std'"]),
        ({"distillation_token": True, "registers": 1}, ["registers is 1", "distillation_token true", "DeiT"]),
        ({"distillation_token": True, "positions": "rotary"}, ["positions is 'rotary'", "distillation_token true"]),
        ({"qk_norm": True, "positions": "relative"}, ["positions is 'relative'", "qk_norm true", "ViT-22B"]),
        ({"positions": "relative", "swiglu": True}, ["swiglu is true", "positions 'relative'", "BEiT"]),
        ({"key_bias": False, "positions": "sine2d"}, ["positions is 'sine2d'", "key_bias false", "DINOv3"]),
        ({"gelu": "tanh", "layer_scale": 0.1}, ["layer_scale is 0.1", "gelu 'tanh'", "Google"]),
        ({"gelu": "tanh", "swiglu": True}, ["swiglu is true", "gelu 'tanh'"]),
    ],
    ids=str,
)
def test_combinations_without_a_published_model_are_refused(options, facts):
    with torch.device("meta"), pytest.raises(ValueError, match=".*".join(map(re.escape, facts))):
        ViT("nano", **options)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.option} {part.value}")
def test_published_combinations_of_each_part_are_built(part):
    """With the first and with the last of the values that the table allows."""
    for end in (0, -1):
        options = {part.option: part.value, **{name: values[end] for name, values in part.options.items()}}
        with torch.device("meta"):
            assert len(ViT("nano", **options).blocks) == 6


def sections_in(content):
    """The sections of the backbone `vit` in a config."""
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    own = [content] if isinstance(content, dict) and content.get("name") == "vit" else []
    return own + [section for value in values for section in sections_in(value)]


def published_sections():
    """The sections of the ViTs that layouts publish, from overrides: "backbone.name=vit backbone.variant=base ..."."""
    for layout in layouts.every():
        for model in layout.publishing.models.values():
            if model.recipe.startswith("backbone.name=vit "):
                pairs = [item.removeprefix("backbone.").partition("=") for item in model.recipe.split()]
                yield {key: yaml_io.parse(value, key) for key, _, value in pairs}


@pytest.mark.integration
def test_shipped_configs_described_layouts_and_cases_of_the_contract_are_built():
    configs = [section for path in Path("configs").rglob("*.yaml") for section in sections_in(yaml_io.read_file(path))]
    described = sections_in([[section for *_, section in ROWS], [backbone for _, backbone, *_ in HEADS.values()]])
    cases = [{"variant": "nano", **case} for case in CASES["vit"].values()]
    published, options = [*published_sections()], inspect.signature(ViT).parameters
    assert len(configs) > 15 and len(described) > 10 and len(published) > 30 and cases
    for section in [*configs, *described, *published, *cases]:
        with torch.device("meta"):
            densevit.create_backbone("vit", **{name: value for name, value in section.items() if name in options})
