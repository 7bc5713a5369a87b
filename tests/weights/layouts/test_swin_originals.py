"""Swins with released names compute what the authors' code does, which `originals/record_swin.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densevit.interfaces import CheckpointLayout
from densevit.weights.key_mapping import describe, translate
from densevit.weights.layouts import find, recognise
from densevit_backbones.swin.backbone import Swin
from densevit_backbones.swin.variants import VARIANTS, Variant
from tests.weights.layouts.originals.record_swin import random_image, random_state, sampled

pytestmark = pytest.mark.integration

RULES = ("per_axis", "both_axes", "dense")
HEADS = {"decode_head.conv_seg.weight": torch.zeros(3, 8, 1, 1), "auxiliary_head.conv_seg.bias": torch.zeros(3)}
CASES = [  # file, size, layout, rules that compute the same
    ("microsoft-swin", "128x128", "microsoft-swin", {"per_axis", "both_axes"}),
    ("microsoft-swin", "128x256", "microsoft-swin", {"both_axes"}),
    ("microsoft-swin", "256x128", "microsoft-swin", {"both_axes"}),
    ("microsoft-swin", "64x128", "microsoft-swin", {"both_axes"}),  # the last window is 2x2
    ("microsoft-swinv2", "128x128", "microsoft-swinv2", {"per_axis", "both_axes"}),
    ("microsoft-swinv2", "128x256", "microsoft-swinv2", {"both_axes"}),
    ("microsoft-swinv2", "256x128", "microsoft-swinv2", {"both_axes"}),
    ("microsoft-swinv2", "64x128", "microsoft-swinv2", {"both_axes"}),
    ("microsoft-swin-dense", "160x136", "microsoft-swin-dense", {"per_axis", "both_axes", "dense"}),  # larger maps
    ("microsoft-swin-dense", "128x128", "microsoft-swin-dense", {"dense"}),
    ("microsoft-swin-dense", "97x131", "microsoft-swin-dense", {"dense"}),
    ("microsoft-swin-dense", "64x64", "microsoft-swin-dense", {"dense"}),
    ("microsoft-swin-dense", "40x72", "microsoft-swin-dense", {"dense"}),
    ("detectron2-swin", "97x131", "microsoft-swin-dense", {"dense"}),
    ("detectron2-swin", "64x64", "microsoft-swin-dense", {"dense"}),
]


@pytest.fixture
def eight_channels(monkeypatch):
    """The variant that was recorded: unlike "nano", it has a shifted block in each stage."""
    monkeypatch.setitem(VARIANTS, "eight", Variant(8, (2, 2, 2, 2), (1, 2, 2, 4), 0.0))


def recorded(name: str, size: str) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """The weights with the names of the checkpoint, and the feature maps."""
    with safe_open(Path(__file__).parent / "originals" / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        shapes = json.loads(metadata["shapes"]) | json.loads(metadata[size])
        maps = [file.get_tensor(key) for key in sorted(file.keys()) if key.startswith(f"{size}.")]
    return random_state(shapes), maps


def build(state: dict[str, torch.Tensor], layout: CheckpointLayout, **options: object) -> Swin:
    done = translate(state, layout)
    assert (done.unknown, done.errors) == ([], [])
    section = {**describe(state, layout)["backbone"], **options}
    del section["name"]
    swin = Swin(**section).eval()
    missing, unexpected = swin.load_state_dict(done.tensors, strict=False)
    assert not unexpected and all(
        key.startswith(("feature_norms.0", "feature_norms.1", "feature_norms.2")) for key in missing
    )
    return swin


@pytest.mark.parametrize(("original", "size", "layout", "rules"), CASES, ids=lambda x: x if isinstance(x, str) else "")
@torch.no_grad()
def test_features_are_those_of_the_original(original, size, layout, rules, eight_channels):
    state, expected = recorded(original, size)
    if layout == "microsoft-swin-dense":
        state = {f"backbone.{key}": x for key, x in state.items()} | HEADS
    assert recognise(state).name == layout
    height, width = map(int, size.split("x"))
    windows = {"window_size": (4, 4, 4, min(4, height // 32, width // 32))} if layout.endswith("v2") else {}
    images = random_image(height, width)
    found = sampled(build(state, find(layout), **windows)(images))[-len(expected) :]
    for x, y in zip(found, expected, strict=True):
        assert y.std() > 0.5
        torch.testing.assert_close(x, y, atol=5e-5, rtol=1e-5)
    for rule in RULES:
        last = build(state, find(layout), shift=rule, **windows)(images)[-1]
        assert torch.allclose(last, expected[-1], atol=1e-4) == (rule in rules)
