"""Files with the authors' names: their tensors and options are those of transformers' model, which other tests run.

transformers' models with random weights are renamed as in its conversion scripts, backwards.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import densevit
from densevit.errors import WeightsError
from densevit.layouts import find
from densevit_checkpoints.key_mapping import describe, translate
from densevit_checkpoints.recognition import recognise
from tests.checkpoints.layouts import dense_models as dense
from tests.checkpoints.layouts import models
from tests.checkpoints.layouts.authors_names import (
    DINOV3,
    EOMT,
    HGNET,
    LW_DETR,
    LW_DETR_BACKBONE,
    NOT_IN_V1,
    RESNET,
    SEGFORMER,
    TRANSFORMER,
    Names,
)
from tests.checkpoints.layouts.translations import written_back

pytestmark = pytest.mark.integration


def renamed(state: Mapping[str, Tensor], names: Names, fused: str) -> dict[str, Tensor]:
    """The tensors with the authors' names. fused: in place of `q_proj.`, of query, key and value in one tensor."""
    result = {}
    for key, tensor in state.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        result[key] = tensor
    for key in [key for key in result if key.endswith("q_proj.weight")]:
        for kind in ("weight", "bias"):
            parts = [result.pop(re.sub(r"q_proj\.weight$", f"{x}_proj.{kind}", key), None) for x in "qkv"]
            name = re.sub(r"q_proj\.weight$", fused + kind, key)
            if parts[0] is not None and parts[1] is None:
                parts[1] = torch.randn_like(parts[0])  # of DINOv3's keys: without effect by its mask
                result[f"{name}_mask"] = torch.ones(3 * len(parts[0]))
            if parts[0] is not None:
                result[name] = torch.cat(parts)
    return result


def file_of(theirs: Any) -> dict[str, Tensor]:
    """The tensors of a model with the names of transformers' files."""
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(theirs, theirs.state_dict()))


def of_segformer(theirs: Any) -> dict[str, Tensor]:
    state = file_of(theirs)
    for key in [key for key in state if "attention.self.value" in key]:
        value, own = state.pop(key), key.replace(".value.", ".key.")
        state[own.replace("attention.self.key", "attn.kv")] = torch.cat([state.pop(own), value])
    state = renamed(state, SEGFORMER, "")
    if "backbone.norm1.weight" in state and "decode_head.linear_pred.weight" in state:
        return state | {"decode_head.conv_seg.bias": torch.zeros(5)}  # which is not used
    return {re.sub("^classifier", "head", key.removeprefix("backbone.")): x for key, x in state.items()}


def of_eomt(theirs: Any) -> dict[str, Tensor]:
    state = renamed({key.removeprefix("model."): x for key, x in theirs.state_dict().items()}, EOMT, "qkv.")
    state["network.encoder.backbone.pos_embed"] = state["network.encoder.backbone.pos_embed"][None]
    return state | {f"network.encoder.pixel_{name}": torch.ones(1, 3, 1, 1) for name in ("mean", "std")}


def of_dinov3(theirs: Any) -> dict[str, Tensor]:
    state = renamed({key.removeprefix("model."): x for key, x in theirs.state_dict().items()}, DINOV3, "qkv.")
    more = {"mask_token": torch.zeros(1, 128), "rope_embed.periods": torch.ones(8)}
    return {key: x for key, x in state.items() if "embeddings" not in key} | more


def of_rtdetr(theirs: Any) -> dict[str, Tensor]:
    """Of RT-DETR and D-FINE."""
    kind = type(theirs).__name__
    names = (HGNET if "DFine" in kind else RESNET) + TRANSFORMER + ([] if "RTDetrFor" in kind else NOT_IN_V1)
    own = {key.removeprefix("model."): x for key, x in theirs.state_dict().items() if key.startswith("model.")}
    state = renamed(own, names, "in_proj_")
    if "DFine" in kind:
        return state | {f"decoder.{name}": state[f"decoder.decoder.{name}"] for name in ("up", "reg_scale")}
    return state | {"decoder.anchors": torch.zeros(1, 9, 4), "decoder.valid_mask": torch.ones(1, 9, 1)}


def of_rtdetr_resnet(theirs: Any) -> dict[str, Tensor]:
    state = of_rtdetr(theirs)
    return {key.removeprefix("backbone."): x for key, x in state.items() if key.startswith("backbone.")}


def of_lw_detr(theirs: Any) -> dict[str, Tensor]:
    backbone = {key: x for key, x in theirs.state_dict().items() if key.startswith("model.backbone.")}
    head = {key: x for key, x in theirs.state_dict().items() if key not in backbone}
    fused = renamed(backbone, LW_DETR_BACKBONE, "qkv.")
    fused = {key.replace("attention.qkv.", "attn.qkv."): x for key, x in fused.items()}
    return renamed(head, LW_DETR, "in_proj_") | fused


class Case(NamedTuple):
    """options: of the backbone in the authors' files; all others are those of transformers'."""

    make: Callable[[], Any]
    renamed: Callable[[Any], dict[str, Tensor]]
    layout: str
    transformers: str
    options: Mapping[str, Any] = {}


EPSILON, FROZEN = {"norm_eps": 1e-6}, {"frozen_stages": 1}
CASES = {
    "segformer": Case(dense.segformer, of_segformer, "segformer", "transformers-segformer", EPSILON),
    "mit": Case(
        lambda: dense.segformer("SegformerForImageClassification"),
        of_segformer,
        "nvidia-mit",
        "transformers-mit",
        EPSILON,
    ),
    **{
        f"eomt, {task}": Case(lambda task=task: dense.eomt(2, task), of_eomt, f"eomt{end}", f"transformers-eomt{end}")
        for task, end in (("panoptic", ""), ("instance", "-instance"), ("semantic", "-semantic"))
    },
    "dinov3": Case(dense.dinov3, of_dinov3, "dinov3", "transformers-dinov3", {"positions": "rotary"}),
    "rtdetr": Case(lambda: models.rtdetr(1, "bottleneck"), of_rtdetr, "rtdetr", "transformers-rtdetr", FROZEN),
    "rtdetrv2": Case(lambda: models.rtdetr(2), of_rtdetr, "rtdetrv2", "transformers-rtdetrv2"),
    "dfine": Case(lambda: models.dfine(models.THREE_LEVELS), of_rtdetr, "dfine", "transformers-dfine"),
    "rtdetr's resnet": Case(models.rtdetr, of_rtdetr_resnet, "rtdetr-resnet", "transformers-rtdetr"),
    "lw-detr": Case(models.lw_detr, of_lw_detr, "lw-detr", "transformers-lw-detr"),
}


@pytest.mark.parity("segformer", "nvidia-mit", "eomt", "eomt-instance", "eomt-semantic", "dinov3", "lw-detr")
@pytest.mark.parity("rtdetr", "rtdetrv2", "dfine", "rtdetr-resnet")
@pytest.mark.parametrize("name", CASES)
def test_a_file_with_the_authors_names_is_read_as_transformers_model(name, request):
    case = CASES[name]
    if name == "lw-detr":
        request.getfixturevalue("small_rf_detr")
    theirs = case.make()
    state, layout, other = case.renamed(theirs), find(case.layout), find(case.transformers)
    assert recognise(state) is layout
    file = file_of(theirs)
    done, expected = translate(state, layout), translate(file, other)
    assert (done.unknown, done.errors, expected.errors) == ([], [], [])
    own = {key.removeprefix("backbone.") if layout.is_backbone else key: x for key, x in expected.tensors.items()}
    assert done.tensors.keys() == {key for key in own if not layout.is_backbone or not key.startswith("heads.")}
    assert all(torch.equal(x, own[key]) for key, x in done.tensors.items())
    written_back(state, done, layout)
    sections, others = describe(state, layout), describe(file, other)
    assert sections["backbone"] == others["backbone"] | case.options
    if not layout.is_backbone:
        assert sections == others | {"backbone": sections["backbone"]}
        assert (layout.publishing.mean, layout.publishing.std) == (other.publishing.mean, other.publishing.std)


# ---- refused files ----

TOKENS = ("cls_token", "storage_tokens", "rope_embed.periods", "blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma")
THEIRS = ("embeddings.cls_token", "embeddings.register_tokens", "embeddings.patch_embeddings.weight", "norm.weight")
UNSUPPORTED = {  # DINOv3s
    "gated": [*TOKENS, *(f"blocks.0.mlp.{name}.weight" for name in ("w1", "w2", "w3"))],
    "gated, of transformers": [*THEIRS, "layer.0.attention.o_proj.weight", "layer.0.mlp.gate_proj.weight"],
    "convnext": ["downsample_layers.0.0.weight", "stages.0.0.dwconv.weight", "stages.0.0.gamma", "norms.3.weight"],
    "convnext, of transformers": [
        "stages.0.downsample_layers.0.weight",
        *(f"stages.0.layers.0.{name}" for name in ("depthwise_conv.weight", "pointwise_conv1.weight", "gamma")),
    ],
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_other_dinov3s_are_refused_with_what_to_do(kind, tmp_path):
    torch.save({key: torch.zeros(2) for key in UNSUPPORTED[kind]}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"of DINOv3 are recognised.*Fix: use timm's copy.*convnext_tiny"):
        densevit.create_backbone("vit", variant="nano", weights=tmp_path / "weights.pth")
