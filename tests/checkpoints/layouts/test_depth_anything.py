"""Depth Anything: published sizes, licences, refused configs, and what its weights start."""

import pytest
import torch

import densevit
from densevit.weights.checkpoint import Checkpoint
from densevit_checkpoints.foreign_checkpoint import translate_checkpoint
from densevit_checkpoints.foreign_weights import convert
from densevit_checkpoints.key_mapping import describe
from densevit_checkpoints.recognition import recognise
from tests.checkpoints.layouts import dense_models as dense

pytestmark = pytest.mark.integration

PUBLISHED = {  # width, blocks, heads, fusion, channels, features of V2
    "small": (384, 12, 6, 64, [48, 96, 192, 384], (3, 6, 9, 12)),
    "base": (768, 12, 12, 128, [96, 192, 384, 768], (3, 6, 9, 12)),
    "large": (1024, 24, 16, 256, [256, 512, 1024, 1024], (5, 12, 18, 24)),
}
VIT = {
    "name": "vit",
    "variant": "nano",
    "patch_size": 14,
    "image_size": 70,
    "layer_scale": 1e-5,
    "features": [2, 3, 5, 6],
    "position_resizing": "bicubic",
}
DPT = {"name": "dpt", "upsampling": "exact", "width": 64, "reassemble_channels": [24, 48, 96, 128]}


@pytest.fixture(scope="module")
def relative(tmp_path_factory):
    """The folder of a model of transformers of relative depth."""
    folder = tmp_path_factory.mktemp("relative") / "theirs"
    dense.depth_anything("relative").save_pretrained(folder)
    return folder


# ---- published files ----


def published(size, features):
    """The tensors of a published model, and its config.json."""
    width, blocks, heads, fusion, channels, _ = PUBLISHED[size]
    options = {"features": features, "neck_hidden_sizes": channels, "fusion_hidden_size": fusion}
    with torch.device("meta"):
        theirs = dense.depth_anything("metric", width, blocks, heads, **options, max_depth=80)
    return theirs.state_dict(), {"config": theirs.config.to_dict()}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_are_described_with_their_licence(size):
    *_, fusion, channels, features = PUBLISHED[size]
    state, metadata = published(size, features)
    layout = recognise(state, metadata=metadata)
    assert layout.name == "transformers-depth-anything-metric"
    backbone = {**VIT, "variant": size, "features": features}
    head = {
        **DPT,
        "output": "sigmoid",
        "width": fusion,
        "reassemble_channels": channels,
        "min_depth": 1e-6,
        "max_depth": 80.0,
    }
    assert describe(state, layout, metadata) == {"backbone": backbone, "heads": {"depth": head}}
    licence = "Apache-2.0" if size == "small" else "CC-BY-NC-4.0"
    own = translate_checkpoint(Checkpoint(state, "a.bin", metadata=metadata), layout)
    assert own.licences["a.bin"].weights == licence


# ---- weights of relative depth in other models ----


def test_metres_are_learned_from_relative_weights(relative):
    """All but the last convolution, whose output has another meaning and range."""
    metres = {**DPT, "output": "sigmoid", "max_depth": 8.0}
    model = densevit.create_model(VIT, heads={"far": metres}, weights=str(relative))
    notes = convert(relative, overrides=["heads.depth.output=sigmoid"]).fit.notes
    why = "the last convolution (conv3) is untrained: the weights have output 'relative', this head 'sigmoid'"
    assert f"heads.depth: {why}." in notes
    new = {"heads.far.conv3.weight", "heads.far.conv3.bias"}
    theirs = {name.replace("heads.depth.", "heads.far."): x for name, x in convert(relative).model.state_dict().items()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs[name]) or name in new, name
    outputs = model.heads["far"](model.backbone(torch.randn(1, 3, 70, 98)), torch.zeros(1, 70, 98).bool())["depth"]
    torch.testing.assert_close(outputs, torch.full_like(outputs, 2.0), atol=1e-2, rtol=0)  # a quarter of 8 m
