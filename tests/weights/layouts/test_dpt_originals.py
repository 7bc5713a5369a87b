"""DPTs compute what isl-org/DPT's code does, which `originals/record_dpt.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densevit.weights.layouts import find, recognise
from densevit_backbones.vit.variants import VARIANTS, Variant
from tests.weights.layouts.originals.record_dpt import ORIGINALS, random_dpt
from tests.weights.layouts.originals.record_swin import random_image

pytestmark = pytest.mark.integration

WITHOUT_EFFECT = r"pretrained\.model\.(norm|head)\.|scratch\.refinenet4\.resConfUnit1\."


@pytest.fixture(autouse=True)
def recorded_variant(monkeypatch):
    monkeypatch.setitem(VARIANTS, "nano", Variant(32, 4, 2, 0.0))


def recorded(original):
    """The weights with the names of the checkpoint, and the maps by size."""
    with safe_open(Path(__file__).parent / "originals" / f"{original}.safetensors", "pt") as file:
        maps = {key: file.get_tensor(key) for key in sorted(file.keys())}
        return random_dpt(json.loads(file.metadata()["shapes"])), maps


@pytest.mark.parity("dpt", "dpt-hybrid", "dpt-hybrid-nyu", "dpt-segmentation", "dpt-hybrid-segmentation")
@pytest.mark.parametrize("original", ORIGINALS)
@torch.no_grad()
def test_outputs_are_those_of_the_original(original, whole):
    state, maps = recorded(original)
    assert recognise(state).name == original.removesuffix("-nyu")
    model = whole(state, find(original), WITHOUT_EFFECT)
    (head,) = model.heads.values()
    for key, expected in maps.items():
        size = tuple(map(int, key.split("x")))
        outputs = head(model.backbone(random_image(*size)), torch.zeros(1, *size, dtype=torch.bool))
        found = head.maps(outputs, size)[..., ::5, ::5]
        scale = expected.abs().max().item()
        assert expected.std() > 0.1 * scale
        torch.testing.assert_close(found.view_as(expected), expected, atol=1e-5 * scale, rtol=1e-5)


@pytest.mark.parity("dpt-hybrid-kitti")
@torch.no_grad()
def test_depth_of_kitti_is_that_of_the_relative_model_in_metres(whole):
    """`DPTDepthModel` with the scale and shift of `run_monodepth.py`, of the recorded relative depth."""
    state, maps = recorded("dpt-hybrid")
    model = whole(state, find("dpt-hybrid-kitti"), WITHOUT_EFFECT)
    head = model.heads["depth"]
    for key, relative in maps.items():
        size = tuple(map(int, key.split("x")))
        outputs = head(model.backbone(random_image(*size)), torch.zeros(1, *size, dtype=torch.bool))
        found = head.maps(outputs, size)[:, 0, ::5, ::5]
        torch.testing.assert_close(found, 1 / (0.00006016 * relative + 0.00579).clamp(min=1e-8), atol=1e-3, rtol=1e-4)
