"""Replaced layers against those of torch that they stand for."""

import copy
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import densevit
from densevit.inference.predictor import Predictor
from densevit.layers.fast import replacement
from densevit.layers.fast.dropout import Dropout, ReluDropoutFeedForward
from densevit.layers.fast.linear import Conv1x1
from densevit.layers.fast.replacement import replace_layers
from densevit.layers.mlp import FeedForward
from densevit.weights import model_file


class OwnDropout(nn.Dropout):
    """A subclass, which may compute something else."""


@pytest.mark.parametrize(
    ("layer", "faster"),
    [
        (lambda: nn.Conv2d(3, 4, 1, stride=2, bias=False), Conv1x1),
        (lambda: nn.Dropout(0.5), Dropout),
        (lambda: FeedForward(4, 8, nn.ReLU, 0.1), ReluDropoutFeedForward),
        (lambda: nn.Conv2d(3, 4, 1), nn.Conv2d),
        (lambda: nn.Conv2d(3, 4, 1, padding=1, bias=False), nn.Conv2d),
        (lambda: nn.Conv2d(4, 4, 1, groups=2, bias=False), nn.Conv2d),
        (lambda: nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d),
        (lambda: nn.Dropout(0.5, inplace=True), nn.Dropout),
        (lambda: FeedForward(4, 8, nn.GELU, 0.1), FeedForward),
        (lambda: OwnDropout(0.5), OwnDropout),
    ],
)
def test_layers_that_have_a_faster_one_are_replaced(layer: Callable[[], nn.Module], faster: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Sequential(layer()))
    replace_layers(model)
    assert type(model[0][0]) is faster
    replace_layers(model)
    assert type(model[0][0]) is faster


def test_functions_that_a_module_keeps_are_replaced_by_those_with_the_same_arguments() -> None:
    for plain, faster in replacement.FUNCTIONS.items():
        module = nn.Module()
        module.function = plain  # type: ignore[assignment]  # no module
        model = copy.deepcopy(nn.Sequential(module))
        replace_layers(model)
        assert model[0].function is faster and module.function is plain
        parameters = [[*inspect.signature(function).parameters.values()] for function in (plain, faster)]
        assert parameters[0] == parameters[1]


def test_parameters_hooks_and_modes_stay() -> None:
    layer = nn.Conv2d(3, 4, 1, bias=False).eval()
    layer.weight.requires_grad_(False)
    weight, calls = layer.weight, []
    layer.register_forward_hook(lambda *args: calls.append(args))
    replace_layers(layer)
    layer(torch.ones(1, 3, 2, 2))
    assert layer.weight is weight and not layer.training and len(calls) == 1


def test_a_model_from_a_config_has_replaced_layers() -> None:
    model = densevit.create_model("resnet", heads={"a": "detr"}, classes=["x"], pretrained=False).model
    kinds = {type(module) for module in model.modules()}
    assert {Conv1x1, Dropout, ReluDropoutFeedForward} <= kinds
    assert nn.Dropout not in kinds


def test_a_model_built_by_hand_has_those_of_a_config() -> None:
    backbone = densevit.create_backbone("resnet", depth=18)
    head = densevit.create_head("detr", backbone.channels, backbone.strides, [densevit.Class("x", 0, (0, 0, 0))])
    model = densevit.DenseModel(backbone, {"a": head})
    config = densevit.create_model("resnet", heads={"a": "detr"}, classes=["x"], pretrained=False).model
    kinds = [[type(module) for name, module in each.named_modules() if name[:5] == "heads"] for each in (model, config)]
    assert kinds[0] == kinds[1] and Dropout in kinds[0]


def test_a_config_keeps_torchs_layers_also_in_training_and_in_its_model_file(tmp_path: Path) -> None:
    config = densevit.config.load("scenes/detr_resnet", ["trainer.replace_layers=false"])
    model = densevit.build_model(config, {"detection": [densevit.Class("x", 0, (0, 0, 0))]}, pretrained=False)
    module = densevit.DenseModule(Predictor(model, config))
    model_file.save(model, tmp_path / "model.safetensors", config)
    for each in (module, densevit.load(tmp_path / "model.safetensors").model):
        kinds = {type(layer) for layer in each.modules()}
        assert {nn.Conv2d, nn.Dropout} <= kinds
        assert not {Conv1x1, Dropout, ReluDropoutFeedForward} & kinds
