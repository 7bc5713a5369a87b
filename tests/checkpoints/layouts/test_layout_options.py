"""The options that a layout implies hold wherever weights are loaded, unless the user has set them.

The checkpoint has random weights in the authors' keys. That each layout implies the options of its project, the
comparisons with it show.
"""

import pytest
import torch

import densevit
from densevit.layouts import find
from densevit_checkpoints.foreign_weights import convert
from densevit_checkpoints.key_mapping import missing_because, translate_back
from densevit_methods.teachers import load_backbone
from tests.checkpoints.layouts.translations import randomise

pytestmark = pytest.mark.integration

SIZE = (64, 128)  # with windows of 4 cells of 16 pixels, only one of the axes is shifted
HEADS = {"x": {"name": "setr", "width": 8}}
VIT = {"name": "vit", "variant": "nano"}


@pytest.fixture
def written(tmp_path):
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
    options = created.sections.backbone.options
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
