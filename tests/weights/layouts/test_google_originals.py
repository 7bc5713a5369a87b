"""Google's ViT and hybrid compute what their authors' code does, which `originals/record_google.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densevit.weights.layouts import recognise
from densevit_backbones.vit.variants import VARIANTS, Variant
from tests.weights.layouts.originals.record_google import ORIGINALS, random_arrays
from tests.weights.layouts.originals.record_swin import random_image

pytestmark = pytest.mark.integration


@pytest.mark.parity("google-vit")
@pytest.mark.parametrize("original", ORIGINALS)
@torch.no_grad()
def test_features_are_those_of_the_original(original, loaded, monkeypatch):
    monkeypatch.setitem(VARIANTS, "nano", Variant(32, 4, 2, 0.0))
    with safe_open(Path(__file__).parent / "originals" / f"google-{original}.safetensors", "pt") as file:
        state = random_arrays(json.loads(file.metadata()["shapes"]))
        maps = {key: file.get_tensor(key) for key in sorted(file.keys())}
    assert recognise({f"opt/target/{key}": x for key, x in state.items()}).name == "google-vit"  # of a training
    vit, with_erf = loaded(state, "google-vit"), loaded(state, "google-vit", gelu="erf")
    for key, expected in maps.items():
        images = random_image(*map(int, key.split("x")))
        assert expected.std() > 0.5
        torch.testing.assert_close(vit(images)[-1], expected, atol=5e-5, rtol=1e-5)
        assert (with_erf(images)[-1] - expected).abs().max() > 2e-4
