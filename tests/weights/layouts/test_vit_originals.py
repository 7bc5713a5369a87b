"""Plain vision transformers compute what their authors' code does, which `originals/record_vit.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densevit_backbones.vit.variants import VARIANTS, Variant
from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.originals.record_vit import random_weights

pytestmark = pytest.mark.integration

CASES = {  # file: layout, position resizing of the layout
    "dinov2": ("dinov2", "bicubic_offset"),
    "dinov2-registers": ("dinov2", "antialiased"),
    "mae": ("mae", "bicubic"),
    "beit": ("beit", "bicubic"),
    "beit-shared": ("beit", "bicubic"),
    "beit-absolute": ("beit", "antialiased"),
}
RESIZED = ("dinov2", "dinov2-registers", "mae")


@pytest.fixture(autouse=True)
def recorded_variant(monkeypatch):
    monkeypatch.setitem(VARIANTS, "nano", Variant(32, 4, 2, 0.0))


def recorded(name):
    """The weights with the names of the checkpoint, and the feature maps by size and block."""
    with safe_open(Path(__file__).parent / "originals" / f"{name}.safetensors", "pt") as file:
        maps = {key: file.get_tensor(key) for key in sorted(file.keys())}
        return random_weights(json.loads(file.metadata()["shapes"])), maps


def features(vit, key):
    size, _, block = key.partition(".")
    return vit(random_image(*map(int, size.split("x"))))[int(block) - 1]


@pytest.mark.parity("dinov2", "mae", "beit")
@pytest.mark.parametrize("original", CASES)
@torch.no_grad()
def test_features_are_those_of_the_original(original, loaded):
    layout, resizing = CASES[original]
    state, maps = recorded(original)
    vit = loaded(state, layout)
    assert (vit.position_resizing, vit.feature_blocks) == (resizing, (1, 2, 3, 4))
    for key, expected in maps.items():
        assert expected.std() > 0.5
        torch.testing.assert_close(features(vit, key), expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("original", RESIZED)
@torch.no_grad()
def test_other_position_resizings_differ_at_other_sizes(original, loaded):
    layout, resizing = CASES[original]
    state, maps = recorded(original)
    trained = {"dinov2": "56x56", "mae": "64x64"}[layout]
    for other in {"antialiased", "bicubic", "bicubic_offset", "bilinear"} - {resizing}:
        vit = loaded(state, layout, position_resizing=other)
        for key, expected in maps.items():
            same = torch.allclose(features(vit, key), expected, atol=1e-3)
            assert same == key.startswith(trained), (other, key)
