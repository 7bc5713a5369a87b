"""The options that a layout implies hold wherever weights are loaded, unless the user has set them.

Checkpoints have random weights in the authors' keys. The models that they are loaded into are compared with models
whose options are set by hand. That each layout implies the options of its project, the comparisons with it show.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch

import densevit
from densevit.weights.key_mapping import missing_because, translate_back
from densevit.weights.layouts import find
from densevit_methods.teachers import load_backbone
from densevit_workbench.interchange.foreign_weights import convert

pytestmark = pytest.mark.integration

SIZE = (64, 128)  # with windows of 4 cells of 16 pixels, only one of the axes is shifted
HALF = [0.5, 0.5, 0.5]
HEADS = {"x": {"name": "setr", "width": 8}}


class Case(NamedTuple):
    """A small model. given: the user's sections, of the backbone and of a head. implied: the options of the layout.

    more: further tensors of a file.
    """

    given: dict[str, Any]
    implied: dict[str, Any]
    head: dict[str, Any] = {}  # noqa: RUF012
    head_implied: dict[str, Any] = {}  # noqa: RUF012
    task: str = ""
    more: Mapping[str, torch.Tensor] = MappingProxyType({})


VIT = {"name": "vit", "variant": "nano"}
RESNET = {"name": "resnet", "depth": 18, "norm": "frozen"}
SMALL = {"width": 32, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 24}
BACKBONES = {
    "dinov2": Case(
        {**VIT, "layer_scale": 1e-5},
        {"image_size": 56, "patch_size": 14, "position_resizing": "bicubic_offset"},
        more={"mask_token": torch.zeros(1)},
    ),
}
MODELS = {
    "deformable-detr": Case(
        RESNET,
        {},
        {"name": "deformable_detr"},
        {"transformer": SMALL, "num_queries": 9, "num_points": 2, "blank_padding": False},
        "detection",
    ),
    "dpt-hybrid": Case(
        {**VIT, "stem": "resnet"},
        {"image_size": 64, "position_resizing": "bilinear", "weight_standardization": "std", "readout": "project",
         "feature_norm": False},
        {"name": "dpt"},
        {"width": 16, "reassemble_channels": [256, 512, 16, 16], "norm": "none"},
        "depth",
    ),
}  # fmt: skip


@pytest.fixture
def written(tmp_path, randomise):
    """`written(case, layout, model)`: the file of a model, whose weights are made random."""

    def written(case, layout, model):
        torch.manual_seed(1)
        randomise(model)
        for key, tensor in model.state_dict().items():
            if missing_because(key, layout):
                tensor.fill_(float(key.endswith("weight")))
        state, _ = translate_back(model.state_dict(), layout)
        torch.save({**state, **case.more}, tmp_path / "pytorch_model.bin")
        return tmp_path / "pytorch_model.bin", state

    return written


PLACES = {
    "create_backbone": lambda given, file: densevit.create_backbone(**given, weights=file),
    "backbone.weights": lambda given, file: (
        densevit.create_model({**given, "weights": str(file)}, HEADS, ["a", "b"]).backbone
    ),
    "teacher": lambda given, file: load_backbone({**given, "weights": str(file)}).backbone,
    "convert": lambda given, file: convert(file).model.backbone,
}


def assert_same(found, expected, place):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3, msg=lambda text: f"{place}: {text}")


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_backbones_compute_as_their_authors_wherever_they_are_loaded(name, written):
    case = BACKBONES[name]
    reference = densevit.create_backbone(**case.given, **case.implied)
    file, _ = written(case, find(name), reference)
    pixels = torch.randn(1, 3, *SIZE)
    created = densevit.create_model(case.given, HEADS, ["a", "b"], weights=file)
    options = created.model.sections.backbone.options
    assert {key: options.get(key) for key in case.implied} == case.implied
    for place, load in {**PLACES, "create_model": lambda *_: created.backbone}.items():
        assert_same(load(case.given, file).eval()(pixels), reference(pixels), place)


def outputs(model):
    padding = torch.zeros(1, *SIZE, dtype=torch.bool)
    padding[:, :, -16:] = True
    torch.manual_seed(2)
    images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    model.eval().set_normalisation(HALF, HALF)
    [found] = model({"images": images, "padding_mask": padding, "targets": [{"size": torch.tensor(SIZE)}]}).values()
    return {key: value for key, value in found.items() if torch.is_tensor(value)}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_models_compute_as_their_authors_wherever_they_are_loaded(name, written):
    case, layout = MODELS[name], find(name)
    heads = {case.task: {**case.head, **case.head_implied}}
    classes = [*"abcde"][: 0 if case.task == "depth" else 5]
    reference = densevit.create_model({**case.given, **case.implied}, heads, classes).model
    file, state = written(case, layout, reference)
    own = layout.classes(state, {}) if layout.classes else {}
    expected, source, classes = outputs(reference), str(file), own.get(case.task, ())
    created = densevit.create_model(case.given, {"x": case.head}, classes, weights=file).model
    options = created.sections.backbone.options
    assert {key: options.get(key) for key in case.implied} == case.implied
    separate = {"x": {**case.head, "weights": source}}
    parts = densevit.create_model({**case.given, "weights": source}, separate, classes)
    loaded = {"create_model": created, "a source for each part": parts.model, "load": densevit.load(source).model}
    for place, model in loaded.items():
        found = outputs(model)
        assert found.keys() == expected.keys()
        assert_same([*found.values()], [expected[key] for key in found], place)
