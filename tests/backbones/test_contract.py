"""Every registered backbone meets the interface in each of its kinds, and computes the same compiled."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import densevit
from densevit import registry
from densevit.interfaces import Backbone
from densevit.testing import check_backbone
from densevit_backbones.vit.windows import Windows
from densevit_papers.axial import Axial
from densevit_papers.lr_net import LocalRelations
from densevit_papers.non_local import NonLocal
from densevit_papers.sagan import SelfAttention
from densevit_papers.sasa import StandAlone

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "resnet": {
        "groups": {"depth": 18, "norm": "group", "variant": "d"},
        "frozen": {"depth": 18, "norm": "frozen", "frozen_stages": 2},
    },
    "swin": {
        "1": {"variant": "nano", "drop_path": 0.2},
        "2": {"variant": "nano", "version": 2, "window_size": 4, "shift": "dense"},
        "convolutions": {"variant": "nano", "window_size": 4, "stem": "conv", "shift": "both_axes"},
    },
    "vit": {  # of the variant "nano"
        "sine": {"positions": "sine1d", "readout": "add", "drop_path": 0.3, "stem": "conv", "patch_size": 8},
        "rotary": {"positions": "rotary", "windows": Windows(3), "registers": 2, "features": (2, 4)},
        "relative": {"positions": "relative", "windows": Windows(3), "registers": 2, "features": (2, 4)},
        "everything": {
            "positions": "sine2d",
            "distillation_token": True,
            "readout": "project",
            "layer_scale": 0.5,
            "qk_norm": True,
            "swiglu": True,
            "feature_norm": False,
            "windows": Windows(2, (1, 3)),
            "features": (1, 2, 4),
        },
        "no tokens": {"positions": "none", "class_token": False, "windows": Windows(3, ()), "patch_size": 32},
        "hybrid": {"stem": "resnet", "readout": "project", "features": (1, 2)},
    },
    "windowed_vit": {
        "rf_detr": {"variant": "nano", "registers": 1, "features": (1, 3, 5)},
        "lw_detr": {"variant": "lw_tiny", "num_windows": 4, "drop_path": 0.2},
    },
    "mvit": {
        "2": {"variant": "nano", "drop_path": 0.2},
        "1": {"variant": "nano", "version": 1},
        "token": {"variant": "nano", "class_token": True, "stem": "conv"},
        "windows": {"variant": "nano", "window_size": 16, "coarse_global_keys": True},
    },
    "mit": {"b0": {}},
    "gtr": {"s": {"drop_path": 0.2}},
    "timm": {name: {"model": name} for name in ("hgnetv2_b0", "convnext_atto")},
    "attention_resnet": {
        "non-local": {"non_local": NonLocal(1, "gaussian")},
        "sagan": {"sagan": SelfAttention((1, 3))},
        "sasa": {"sasa": StandAlone(3, num_heads=2, stem="attention", stages=(2, 4))},
        "lr-net": {"lr_net": LocalRelations(7, stages=(2, 4))},
        "axial": {"axial": Axial(num_heads=2, span=9, stages=(2, 4))},
    },
    "ceit": {"lca": {"variant": "nano", "readout": "lca"}},
    "cvt": {"nano": {"variant": "nano"}},
    "cycle_mlp": {"nano": {"variant": "nano"}},
    "deep_vit": {"nano": {"variant": "nano", "features": (2, 5)}},
    "local_vit": {"nano": {"variant": "nano", "features": (1, 3)}},
    "s2_mlp": {"nano": {"variant": "nano", "patch_size": 8, "features": (1, 2)}},
    "vision_longformer": {"nano": {"variant": "nano", "window_size": 2}},
}


def trained(**options: Any) -> Backbone:
    """Without the zeros that norms of Axial-ResNet have at first, with which features depend on few pixels."""
    resnet: Backbone = registry.load("backbones", "attention_resnet")(depth=26, width=8, **options)
    for name, parameter in resnet.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.ones_(parameter)
    return resnet


def factory(name: str, kind: str) -> partial[Backbone]:
    plugin = trained if name == "attention_resnet" else registry.load("backbones", name)
    return partial(plugin, **{**({"variant": "nano"} if name == "vit" else {}), **CASES[name][kind]})


def test_every_registered_backbone_is_a_case():
    assert set(densevit.list_plugins("backbones")) - {"pixels"} == CASES.keys()  # it has no layers


@pytest.mark.integration
# One kind of each backbone is an integration test, the others are slow.
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, id=f"{name} {kind}", marks=pytest.mark.slow if i else ())
        for name, kinds in CASES.items()
        for i, kind in enumerate(kinds)
    ],
)
def test_backbone_meets_the_interface(name, kind):
    """Features, gradients, precisions, checkpointing, export, saving: `densevit check backbone` lists the checks."""
    check_backbone(factory(name, kind))


@pytest.mark.parametrize("name", ["resnet", "swin", "vit"])
def test_checkpointing_keeps_fewer_activations(name):
    build, kept = factory(name, next(iter(CASES[name]))), []
    for gradient_checkpointing in (False, True):
        sizes: list[int] = []
        backbone = build(gradient_checkpointing=gradient_checkpointing).train()
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=sizes: to.append(x.numel()) or x, lambda x: x):
            backbone(torch.randn(2, 3, 64, 64))
        kept.append(sum(sizes) - sum(p.numel() for p in backbone.parameters()))
    assert kept[1] < 0.8 * kept[0]
