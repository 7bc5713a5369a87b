"""Swins and MViTv2s compute what the code of their checkpoints does, also on maps that are not larger than a window.

What the authors' code computes is recorded in `originals`; timm, torchvision and transformers are run.
"""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from densevit.layouts import find
from densevit_backbones.mvit import checkpoints, variants
from densevit_backbones.mvit.backbone import MViT
from densevit_backbones.swin.backbone import Swin
from densevit_backbones.swin.variants import VARIANTS, Variant
from densevit_checkpoints.key_mapping import describe
from tests.checkpoints.layouts.originals.weights import random_image, random_state, sampled
from tests.checkpoints.layouts.recordings import HERE, recorded
from tests.checkpoints.layouts.translations import loaded
from tests.random_weights import randomise

pytestmark = pytest.mark.integration


RULES = ("per_axis", "both_axes", "dense")
HEADS = {"decode_head.conv_seg.weight": torch.zeros(3, 8, 1, 1), "auxiliary_head.conv_seg.bias": torch.zeros(3)}


@pytest.fixture
def eight_channels(variant):
    """The variant that was recorded, as "nano": it has a shifted block in each stage."""
    variant(VARIANTS, "nano", Variant(8, (2, 2, 2, 2), (1, 2, 2, 4), 0.0))


def recorded_swin(name: str, size: str) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """The weights with the names of the checkpoint, and the feature maps."""
    with safe_open(HERE / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        shapes = json.loads(metadata["shapes"]) | json.loads(metadata[size])
        maps = [file.get_tensor(key) for key in sorted(file.keys()) if key.startswith(f"{size}.")]
    return random_state(shapes), maps


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for x, y in zip(found, expected, strict=True):
        assert y.std() > 0.5
        torch.testing.assert_close(x, y, atol=5e-5, rtol=1e-5)


@pytest.mark.parity("microsoft-swin", "microsoft-swinv2", "microsoft-swin-dense")
@pytest.mark.parametrize(
    ("original", "size", "layout", "rules"),
    [  # file, size, layout, rules that compute the same
        ("microsoft-swin", "128x256", "microsoft-swin", {"both_axes"}),
        ("microsoft-swinv2", "64x128", "microsoft-swinv2", {"both_axes"}),
        ("microsoft-swin-dense", "160x136", "microsoft-swin-dense", {"per_axis", "both_axes", "dense"}),  # larger maps
        ("microsoft-swin-dense", "40x72", "microsoft-swin-dense", {"dense"}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
@torch.no_grad()
def test_features_are_those_of_the_original(original, size, layout, rules, eight_channels):
    state, expected = recorded_swin(original, size)
    if layout == "microsoft-swin-dense":
        state = {f"backbone.{key}": x for key, x in state.items()} | HEADS
    height, width = map(int, size.split("x"))
    windows = {"window_size": (4, 4, 4, min(4, height // 32, width // 32))} if layout.endswith("v2") else {}
    images = random_image(height, width)
    found = sampled(loaded(state, layout, **windows)(images))[-len(expected) :]
    assert_same(found, expected)
    for rule in RULES:
        last = loaded(state, layout, shift=rule, **windows)(images)[-1]
        assert torch.allclose(last, expected[-1], atol=1e-4) == (rule in rules)


EIGHT = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4]}
TORCHVISION = {**EIGHT, "patch_size": [4, 4], "window_size": [4, 4]}
TRANSFORMERS = {**EIGHT, "window_size": 4, "image_size": 128}
WIDE = (128, 256)  # its last map has 4x8 cells
PROJECTS = {"timm": "per_axis", "torchvision": "per_axis", "transformers": "both_axes"}  # with their rules


def make(layout: str) -> nn.Module:
    """The project's model with the widths of `eight_channels`."""
    import transformers
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2
    from torchvision.models import swin_transformer as torchvision_swin

    if layout.startswith("timm"):
        return (SwinTransformerV2 if layout.endswith("v2") else SwinTransformer)(WIDE, window_size=4, **EIGHT)
    if layout == "torchvision-swin":
        return torchvision_swin.SwinTransformer(**TORCHVISION)
    if layout == "torchvision-swinv2":
        block, merging = torchvision_swin.SwinTransformerBlockV2, torchvision_swin.PatchMergingV2
        return torchvision_swin.SwinTransformer(**TORCHVISION, block=block, downsample_layer=merging)
    kind = transformers.Swinv2Model if layout.endswith("v2") else transformers.SwinModel
    return kind(kind.config_class(**TRANSFORMERS))


def maps_of(model: nn.Module, images: torch.Tensor, swin: Swin) -> list[torch.Tensor]:
    """The maps (B, C, H, W) of a model of timm or torchvision, after our norms; of transformers the last one."""
    from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin
    from transformers import SwinModel, Swinv2Model

    if isinstance(model, (SwinModel, Swinv2Model)):
        return [model(images).last_hidden_state.transpose(1, 2).unflatten(2, (images.shape[2] // 32, -1))]
    if isinstance(model, TorchvisionSwin):
        x, raw = images, []
        for i, layer in enumerate(model.features):
            x = layer(x)
            raw += [x] if i % 2 else []
    else:
        raw = [x.permute(0, 2, 3, 1) for x in model.forward_intermediates(images, intermediates_only=True)]
    norms = [*swin.feature_norms[:3], model.norm]
    return [norm(x).permute(0, 3, 1, 2) for x, norm in zip(raw, norms, strict=True)]


@pytest.mark.parity("torchvision-swin", "torchvision-swinv2", "timm-swin", "timm-swinv2")
@pytest.mark.parity("transformers-swin", "transformers-swinv2")
@pytest.mark.parametrize("layout", [f"{project}-{version}" for project in PROJECTS for version in ("swin", "swinv2")])
@torch.no_grad()
def test_features_of_a_wide_map_are_those_of_the_project(layout, eight_channels):
    expected_rule = PROJECTS[layout.partition("-")[0]]
    reference = randomise(make(layout)).eval()
    images, state = random_image(*WIDE), reference.state_dict()
    assert describe(state, find(layout))["backbone"]["shift"] == expected_rule
    windows = {"window_size": 4} if layout.endswith("v2") else {}
    for rule in RULES:
        swin = loaded(state, layout, shift=rule, **windows)
        for norm in swin.feature_norms[:3]:
            randomise(norm)
        expected = maps_of(reference, images, swin)
        found = swin(images)[-len(expected) :]
        if rule == expected_rule:
            for x, y in zip(found, expected, strict=True):
                torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
        assert torch.allclose(found[-1], expected[-1], atol=1e-4) == (rule == expected_rule)


# ---- MViTv2 ----

DETECTOR = {"backbone.fpn_lateral2.weight": torch.zeros(1), "roi_heads.box_head.fc1.weight": torch.zeros(1)}


@pytest.fixture
def detector(variant):
    """The recorded weights with the names of a detector, and the feature maps by size."""
    small = variants.Variant(8, (1, 2, 3, 2), 1, 0.0, "attention")
    variant(variants.VARIANTS[2], "tiny", small)
    variant(checkpoints._DEPTHS, sum(small.blocks), small)
    shapes, outputs = recorded("detectron2-mvitv2")
    maps = {}
    for key, x in outputs.items():
        maps.setdefault(key.partition(".")[0], []).append(x)
    return {f"backbone.bottom_up.{key}": x for key, x in random_state(shapes).items()} | DETECTOR, maps


@pytest.mark.parity("detectron2-mvitv2")
@torch.no_grad()
def test_features_of_mvit_are_those_of_the_original(detector):
    (state, maps), layout = detector, "detectron2-mvitv2"
    section = describe(state, find(layout))["backbone"]
    assert (section["name"], section["image_size"], section["class_token"]) == ("mvit", 64, False)
    assert set(find(layout).options.unsaved) == {"backbone.window_size", "backbone.coarse_global_keys"}
    mvit = loaded(state, layout, window_size=16)  # of the recorded model; published ones have 56
    whole, plain = (
        loaded(state, layout, window_size=None),
        loaded(state, layout, window_size=16, coarse_global_keys=False),
    )
    assert len(maps) == 5
    for size, expected in maps.items():
        images = random_image(*map(int, size.split("x")))
        assert_same(sampled(mvit(images)), expected)
        assert (plain(images)[-1] - expected[-1]).abs().max() > 0.01
        assert torch.allclose(whole(images)[-1], expected[-1], atol=1e-3) == (size == "64x64")


@pytest.mark.parity("facebook-mvitv2")
@torch.no_grad()
def test_classifiers_of_mvit_compute_the_last_map_of_the_original(detector):
    shapes, outputs = recorded("facebook-mvitv2-token")
    state, expected = random_state(shapes), outputs["96x96.3"]
    mvit = loaded(state, "facebook-mvitv2")
    assert type(mvit) is MViT and describe(state, find("facebook-mvitv2"))["backbone"]["class_token"]
    assert_same([mvit(random_image(96, 96))[-1]], [expected])
