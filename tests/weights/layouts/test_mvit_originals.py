"""An MViTv2 with detectron2's names computes what its code does, which `originals/record_mvit.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densevit.errors import WeightsError
from densevit.weights.key_mapping import canonical, describe, translate, translate_back
from densevit.weights.layouts import find, recognise
from densevit_backbones.mvit import checkpoints
from densevit_backbones.mvit.backbone import MViT
from densevit_backbones.mvit.variants import VARIANTS, Variant
from tests.weights.layouts.originals.record_swin import random_image, random_state, sampled

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
    assert (section.pop("name"), section["image_size"], section["class_token"]) == ("mvit", 64, False)
    mvit = MViT(**section).eval()
    mvit.load_state_dict(done.tensors)
    return mvit


@torch.no_grad()
def test_features_are_those_of_the_original(recorded):
    state, maps = recorded
    assert recognise(state).name == "detectron2-mvitv2"
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


def test_published_options_are_assumed_and_named(recorded):
    state, _ = recorded
    section = describe(state, find("detectron2-mvitv2"))["backbone"]
    assert (section["window_size"], section["coarse_global_keys"]) == (56, True)
    assert find("detectron2-mvitv2").unrecorded == ("backbone.window_size", "backbone.coarse_global_keys")


def test_round_trip_preserves_tensors(recorded):
    state, _ = recorded
    layout = find("detectron2-mvitv2")
    back, unknown = translate_back(translate(state, layout).tensors, layout)
    own = {key: x for key, x in canonical(state, layout).items() if key not in DETECTOR}
    assert unknown == [] and back.keys() == own.keys() and all(torch.equal(back[key], x) for key, x in own.items())


def test_classifiers_are_not_read_as_detectors(recorded):
    state, _ = recorded
    classifier = {key: x for key, x in state.items() if "scale" not in key and key not in DETECTOR}
    classifier = {key.removeprefix("backbone.bottom_up."): x for key, x in classifier.items()}
    assert recognise(classifier).name == "facebook-mvitv2"
    with pytest.raises(WeightsError, match="match no known layout"):
        recognise({key: x for key, x in state.items() if "attn" not in key})
