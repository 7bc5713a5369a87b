"""MViTv2s compute what their authors' code does, which `originals/record.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate
from densevit.weights.layouts import find, recognise
from densevit_backbones.mvit import checkpoints
from densevit_backbones.mvit.backbone import MViT
from densevit_backbones.mvit.variants import VARIANTS, Variant
from tests.weights.layouts.originals.weights import random_image, random_state, sampled

pytestmark = pytest.mark.integration

FILE = Path(__file__).parent / "originals" / "detectron2-mvitv2.safetensors"
SMALL = Variant(8, (1, 2, 3, 2), 1, 0.0, "attention")
DETECTOR = {"backbone.fpn_lateral2.weight": torch.zeros(1), "roi_heads.box_head.fc1.weight": torch.zeros(1)}


@pytest.fixture
def recorded(monkeypatch):
    """The weights with the names of a detector, and the feature maps by size."""
    monkeypatch.setitem(VARIANTS[2], "small_detector", SMALL)
    monkeypatch.setitem(checkpoints._DEPTHS, sum(SMALL.blocks), SMALL)
    maps = {}
    with safe_open(FILE, "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        for key in sorted(file.keys()):
            maps.setdefault(key.partition(".")[0], []).append(file.get_tensor(key))
    return {f"backbone.bottom_up.{key}": x for key, x in random_state(shapes).items()} | DETECTOR, maps


def build(state, **options):
    layout = find("detectron2-mvitv2")
    done = translate(state, layout)
    assert (done.unknown, done.errors) == ([], []) and done.left_out.keys() == DETECTOR.keys()
    section = {**describe(state, layout)["backbone"], **options}
    assert set(layout.options.unsaved) == {"backbone.window_size", "backbone.coarse_global_keys"}
    assert (section.pop("name"), section["image_size"], section["class_token"]) == ("mvit", 64, False)
    mvit = MViT(**section).eval()
    mvit.load_state_dict(done.tensors)
    return mvit


@pytest.mark.parity("detectron2-mvitv2")
@torch.no_grad()
def test_features_are_those_of_the_original(recorded, written_back):
    state, maps = recorded
    assert recognise(state).name == "detectron2-mvitv2"
    written_back(state, translate(state, find("detectron2-mvitv2")), find("detectron2-mvitv2"))
    mvit = build(state, window_size=16)  # of the recorded model; published ones have 56
    whole, plain = build(state, window_size=None), build(state, window_size=16, coarse_global_keys=False)
    assert len(maps) == 5
    for size, expected in maps.items():
        images = random_image(*map(int, size.split("x")))
        for x, y in zip(sampled(mvit(images)), expected, strict=True):
            assert y.std() > 0.5
            torch.testing.assert_close(x, y, atol=5e-5, rtol=1e-5)
        assert (plain(images)[-1] - expected[-1]).abs().max() > 0.01
        one_window = size == "64x64"
        assert torch.allclose(whole(images)[-1], expected[-1], atol=1e-3) == one_window


@pytest.mark.parity("facebook-mvitv2")
@pytest.mark.parametrize("name", ["facebook-mvitv2", "facebook-mvitv2-token"])
@torch.no_grad()
def test_classifiers_compute_the_last_map_of_the_original(name, monkeypatch):
    monkeypatch.setitem(VARIANTS[2], "small_detector", SMALL)
    monkeypatch.setitem(checkpoints._DEPTHS, sum(SMALL.blocks), SMALL)
    with safe_open(FILE.with_name(f"{name}.safetensors"), "pt") as file:
        state, expected = random_state(json.loads(file.metadata()["shapes"])), file.get_tensor("96x96.3")
    layout = recognise(state)
    assert layout.name == "facebook-mvitv2" and expected.std() > 0.5
    done = translate(state, layout)
    assert (done.unknown, done.errors) == ([], []) and all(key.startswith("head.") for key in done.left_out)
    section = describe(state, layout)["backbone"]
    assert section.pop("name") == "mvit" and section["class_token"] == name.endswith("token")
    mvit = MViT(**section).eval()
    missing = mvit.load_state_dict(done.tensors, strict=False).missing_keys
    assert {key.rpartition(".")[0] for key in missing} == {f"feature_norms.{i}" for i in range(3)}  # no classifier has
    torch.testing.assert_close(mvit(random_image(96, 96))[-1], expected, atol=5e-5, rtol=1e-5)
    if section.pop("class_token_residual", None) is False:  # timm's tensors are equal, its arithmetic is not
        timm_s = MViT(**section).eval()
        timm_s.load_state_dict(mvit.state_dict())
        assert (timm_s(random_image(96, 96))[-1] - expected).abs().max() > 0.01


def test_classifiers_are_not_read_as_detectors(recorded):
    state, _ = recorded
    classifier = {key: x for key, x in state.items() if "scale" not in key and key not in DETECTOR}
    classifier = {key.removeprefix("backbone.bottom_up."): x for key, x in classifier.items()}
    assert recognise(classifier).name == "facebook-mvitv2"
    with pytest.raises(WeightsError, match="match no known layout"):
        recognise({key: x for key, x in state.items() if "attn" not in key})
