"""Depth Anything V2 computes what its authors' code does, which `originals/record_depth_anything.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densevit.weights.layouts import find, recognise, same_tensors
from densevit_backbones.vit.variants import VARIANTS, Variant
from tests.weights.layouts.originals.record_depth_anything import ORIGINALS, random_depth_anything
from tests.weights.layouts.originals.record_swin import random_image

pytestmark = pytest.mark.integration

WITHOUT_EFFECT = r"pretrained\.mask_token|depth_head\.scratch\.refinenet4\.resConfUnit1\."


@pytest.mark.parity("depth-anything-v2", "depth-anything-v2-indoor", "depth-anything-v2-outdoor")
@pytest.mark.parametrize("original", ORIGINALS)
@torch.no_grad()
def test_outputs_are_those_of_the_original(original, whole, monkeypatch):
    monkeypatch.setitem(VARIANTS, "nano", Variant(32, 4, 2, 0.0))
    with safe_open(Path(__file__).parent / "originals" / f"{original}.safetensors", "pt") as file:
        state = random_depth_anything(json.loads(file.metadata()["shapes"]))
        maps = {key: file.get_tensor(key) for key in sorted(file.keys())}
    assert recognise(state).name == "depth-anything-v2"
    model = whole(state, find(original), WITHOUT_EFFECT)
    head = model.heads["depth"]
    assert head.quantity == ("inverse_depth" if original == "depth-anything-v2" else "depth")
    for key, expected in maps.items():
        size = tuple(map(int, key.split("x")))
        outputs = head(model.backbone(random_image(*size)), torch.zeros(1, *size, dtype=torch.bool))
        found = head.maps(outputs, size)[:, 0, ::5, ::5]
        scale = expected.abs().max().item()
        assert expected.std() > 0.1 * scale and (expected > 0).float().mean() > 0.2
        torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=1e-5)


def test_files_of_the_same_tensors_are_named():
    others = ["depth-anything-v2-indoor", "depth-anything-v2-outdoor", "depth-anything-v1"]
    assert same_tensors(find("depth-anything-v2")) == others
