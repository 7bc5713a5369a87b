"""Replaced functions against the plain ones that they stand for."""

from pathlib import Path
from types import FunctionType

import pytest
from torch import nn

import densevit
from densevit.layers.fast.replacement import FUNCTIONS
from densevit.weights import model_file
from tests.built_models import build_model


def functions(model: nn.Module) -> set[object]:
    """The plain and the faster functions that the modules of a model keep."""
    both = {*FUNCTIONS, *FUNCTIONS.values()}
    values = [value for module in model.modules() for value in vars(module).values()]
    return {value for value in values if isinstance(value, FunctionType)} & both


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_built_models_have_the_faster_functions_and_those_of_modules_keep_theirs(backbone: str) -> None:
    small = {"variant": "nano"} if backbone == "swin" else {"depth": 18}
    detr = {"transformer": {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}}
    section = {"name": backbone, **small}
    built = densevit.create_model(section, {"a": {"name": "detr", **detr}}, classes=["x"], pretrained=False)
    alone = densevit.create_backbone(backbone, **small)
    head = densevit.create_head("detr", alone.channels, alone.strides, [densevit.Class("x", 0, (0, 0, 0))], **detr)
    by_hand = densevit.DenseModel(alone, {"a": head})
    assert functions(built) <= {*FUNCTIONS.values()} and functions(by_hand) <= {*FUNCTIONS}
    assert {FUNCTIONS[plain] for plain in functions(by_hand)} == functions(built) and len(functions(built)) == 2
    densevit.model.replace_layers(by_hand)
    assert functions(by_hand) == functions(built)


@pytest.mark.integration
def test_a_config_keeps_the_plain_functions_also_in_training_and_in_its_model_file(tmp_path: Path) -> None:
    config = densevit.config.load("scenes/detr_resnet", ["trainer.replace_layers=false", "backbone.depth=18"])
    model = build_model(config, {"detection": [densevit.Class("x", 0, (0, 0, 0))]}, pretrained=False)
    module = densevit.DenseModule(model.with_config(config))
    model_file.save(model, tmp_path / "model.safetensors")
    for each in (module, densevit.load(tmp_path / "model.safetensors")):
        assert functions(each) and functions(each) <= {*FUNCTIONS}
