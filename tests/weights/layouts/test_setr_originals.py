"""SETR computes what mmsegmentation's code does, which `originals/record_setr.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densevit.weights.layouts import find, recognise
from densevit_backbones.vit.variants import VARIANTS, Variant
from tests.weights.layouts.originals.record_setr import ORIGINALS
from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.originals.record_vit import random_weights

pytestmark = pytest.mark.integration

WITHOUT_EFFECT = {"mmseg-setr-naive-ade20k": r"auxiliary_head\.", "mmseg-setr-mla": r"backbone\.cls_token"}


@pytest.mark.parametrize("original", ORIGINALS)
@torch.no_grad()
def test_logits_are_those_of_the_original(original, whole, monkeypatch):
    monkeypatch.setitem(VARIANTS, "nano", Variant(32, 4, 2, 0.0))
    with safe_open(Path(__file__).parent / "originals" / f"mmseg-{original}.safetensors", "pt") as file:
        state = random_weights(json.loads(file.metadata()["shapes"]))
        maps = {key: file.get_tensor(key) for key in sorted(file.keys())}
    layout = find("mmseg-setr" if original == "setr-pup" else f"mmseg-{original}")
    assert recognise(state) is layout
    model = whole(state, layout, WITHOUT_EFFECT.get(layout.name, "(?!)"))
    head = model.heads["segmentation"]
    auxiliary = [maps.pop(key) for key in sorted(maps) if key.startswith("auxiliary")]
    for key, expected in maps.items():
        size = tuple(map(int, key.split("x")))
        outputs = head(model.backbone(random_image(*size)), torch.zeros(1, *size, dtype=torch.bool))
        found = head.maps(outputs, size)[..., ::5, ::5]
        assert expected.std() > 0.2
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    features = model.backbone(random_image(64, 64))
    if original == "setr-mla":
        features, auxiliary = head.decode(features)[1], auxiliary[::-1]  # starting with the first map
    for classify, x, expected in zip(head.auxiliary, features, auxiliary, strict=False):
        torch.testing.assert_close(classify(x)[..., ::5, ::5], expected, atol=1e-5, rtol=1e-5)
