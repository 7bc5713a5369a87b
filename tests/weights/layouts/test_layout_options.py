"""The options that a layout implies hold wherever weights are loaded, unless the user has set them.

Checkpoints have random weights in the authors' keys. The models that they are loaded into are compared with models
whose options are set by hand. That each layout implies the options of its project, the comparisons with it show.
"""

from typing import Any

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
VIT = {"name": "vit", "variant": "nano"}


@pytest.fixture
def written(tmp_path, randomise):
    """`written(layout, model, **more)`: the file of a model, whose weights are made random, with further tensors."""

    def written(layout, model, **more):
        torch.manual_seed(1)
        randomise(model)
        for key, tensor in model.state_dict().items():
            if missing_because(key, layout):
                tensor.fill_(float(key.endswith("weight")))
        state, _ = translate_back(model.state_dict(), layout)
        torch.save({**state, **more}, tmp_path / "pytorch_model.bin")
        return str(tmp_path / "pytorch_model.bin"), state

    return written


def assert_same(found, expected, place):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3, msg=lambda text: f"{place}: {text}")


@torch.no_grad()
def test_a_backbone_computes_as_its_authors_wherever_it_is_loaded(written):
    given = {**VIT, "layer_scale": 1e-5}
    implied = {"image_size": 56, "patch_size": 14, "position_resizing": "bicubic_offset"}
    reference = densevit.create_backbone(**given, **implied)
    file, _ = written(find("dinov2"), reference, mask_token=torch.zeros(1))
    created = densevit.create_model(given, HEADS, ["a", "b"], weights=file)
    options = created.model.sections.backbone.options
    assert {key: options.get(key) for key in implied} == implied
    pixels = torch.randn(1, 3, *SIZE)
    for place, backbone in {
        "create_model": created.backbone,
        "create_backbone": densevit.create_backbone(**given, weights=file),
        "backbone.weights": densevit.create_model({**given, "weights": file}, HEADS, ["a", "b"]).backbone,
        "teacher": load_backbone({**given, "weights": file}).backbone,
        "convert": convert(file).model.backbone,
    }.items():
        assert_same(backbone.eval()(pixels), reference(pixels), place)


def outputs(model):
    padding = torch.zeros(1, *SIZE, dtype=torch.bool)
    padding[:, :, -16:] = True
    torch.manual_seed(2)
    images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    for values in (model.eval().mean, model.std):
        values.fill_(255 / 2)
    [found] = model({"images": images, "padding_mask": padding, "targets": [{"size": torch.tensor(SIZE)}]}).values()
    return {key: value for key, value in found.items() if torch.is_tensor(value)}


SMALL = {"width": 32, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 24}
MODELS: dict[str, tuple[Any, ...]] = {  # the user's backbone, the layout's options of it, the same of the head; task
    "deformable-detr": (
        {"name": "resnet", "depth": 18, "norm": "frozen"}, {}, {"name": "deformable_detr"},
        {"transformer": SMALL, "num_queries": 9, "num_points": 2, "blank_padding": False}, "detection",
    ),
    "dpt-hybrid": (
        {**VIT, "stem": "resnet"},
        {"image_size": 64, "position_resizing": "bilinear", "weight_standardization": "std", "readout": "project",
         "feature_norm": False},
        {"name": "dpt"}, {"width": 16, "reassemble_channels": [256, 512, 16, 16], "norm": "none"}, "depth",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_models_compute_as_their_authors_wherever_they_are_loaded(name, written):
    layout, (given, implied, head, head_implied, task) = find(name), MODELS[name]
    classes = [*"abcde"][: 0 if task == "depth" else 5]
    reference = densevit.create_model({**given, **implied}, {task: {**head, **head_implied}}, classes).model
    file, state = written(layout, reference)
    expected, own = outputs(reference), layout.classes(state, {})[task] if layout.classes else ()
    created = densevit.create_model(given, {"x": head}, own, weights=file).model
    options = created.sections.backbone.options
    assert {key: options.get(key) for key in implied} == implied
    parts = densevit.create_model({**given, "weights": file}, {"x": {**head, "weights": file}}, own)
    loaded = {"create_model": created, "a source for each part": parts.model, "load": densevit.load(file).model}
    for place, model in loaded.items():
        found = outputs(model)
        assert found.keys() == expected.keys()
        assert_same([*found.values()], [expected[key] for key in found], place)
