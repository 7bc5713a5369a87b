"""Files with the authors' names: their tensors and options are those of transformers' model, which other tests run.

transformers' models with random weights are renamed as in its conversion scripts, backwards.
"""

import re
from collections.abc import Callable, Mapping, Sequence
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
from tests.checkpoints.layouts.translations import written_back

pytestmark = pytest.mark.integration

Names = Sequence[tuple[str, Any]]
"""Patterns of transformers' names, and the authors'."""

SEGFORMER = [
    (r"encoder\.patch_embeddings\.(\d)\.proj", lambda m: f"patch_embed{int(m[1]) + 1}.proj"),
    (r"encoder\.patch_embeddings\.(\d)\.layer_norm", lambda m: f"patch_embed{int(m[1]) + 1}.norm"),
    (r"encoder\.block\.(\d)\.", lambda m: f"block{int(m[1]) + 1}."),
    (r"encoder\.layer_norm\.(\d)\.", lambda m: f"norm{int(m[1]) + 1}."),
    (r"layer_norm_(\d)", r"norm\1"),
    (r"attention\.self\.query", "attn.q"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"attention\.self\.sr", "attn.sr"),
    (r"attention\.self\.layer_norm", "attn.norm"),
    (r"mlp\.dense(\d)", r"mlp.fc\1"),
    (r"^segformer\.", "backbone."),
    (r"linear_c\.(\d)", lambda m: f"linear_c{int(m[1]) + 1}"),
    (r"linear_fuse", "linear_fuse.conv"),
    (r"decode_head\.batch_norm", "decode_head.linear_fuse.bn"),
    (r"decode_head\.classifier", "decode_head.linear_pred"),
]
EOMT = [
    (r"^embeddings\.cls_token", "network.encoder.backbone.cls_token"),
    (r"^embeddings\.register_tokens", "network.encoder.backbone.reg_token"),
    (r"^embeddings\.position_embeddings\.weight", "network.encoder.backbone.pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "network.encoder.backbone.patch_embed.proj"),
    (r"^layers\.(\d)\.attention\.out_proj", r"network.encoder.backbone.blocks.\1.attn.proj"),
    (r"^layers\.(\d)\.attention\.", r"network.encoder.backbone.blocks.\1.attn."),
    (r"^layers\.(\d)\.layer_scale(\d)\.lambda1", r"network.encoder.backbone.blocks.\1.ls\2.gamma"),
    (r"^layers\.(\d)\.", r"network.encoder.backbone.blocks.\1."),
    (r"^layernorm\.", "network.encoder.backbone.norm."),
    (r"^query\.", "network.q."),
    (r"^class_predictor\.", "network.class_head."),
    (r"^upscale_block\.block\.(\d)\.layernorm2d", r"network.upscale.\1.norm"),
    (r"^upscale_block\.block\.", "network.upscale."),
    (r"^mask_head\.fc1", "network.mask_head.0"),
    (r"^mask_head\.fc2", "network.mask_head.2"),
    (r"^mask_head\.fc3", "network.mask_head.4"),
    (r"^attn_mask_probs", "network.attn_mask_probs"),
]
DINOV3 = [
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.register_tokens", "storage_tokens"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^layer\.(\d)\.", r"blocks.\1."),
    (r"attention\.o_proj", "attn.proj"),
    (r"attention\.([qkv])_proj", r"attn.\1_proj"),
    (r"mlp\.up_proj", "mlp.fc1"),
    (r"mlp\.down_proj", "mlp.fc2"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
]
STAGE = r"^backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d+)"
RESNET = [
    (r"^backbone\.model\.embedder\.embedder\.(\d)\.", lambda m: f"backbone.conv1.conv1_{int(m[1]) + 1}."),
    (rf"{STAGE}\.layer\.(\d)\.", lambda m: f"backbone.res_layers.{m[1]}.blocks.{m[2]}.branch2{'abc'[int(m[3])]}."),
    (rf"{STAGE}\.shortcut\.1\.", r"backbone.res_layers.\1.blocks.\2.short.conv."),
    (rf"{STAGE}\.shortcut\.", r"backbone.res_layers.\1.blocks.\2.short."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".norm."),
]
HGNET = [
    (r"^backbone\.model\.embedder\.", "backbone.stem."),
    (r"^backbone\.model\.encoder\.", "backbone."),
    (r"^(backbone\..*)\.convolution\.", r"\1.conv."),
    (r"^(backbone\..*)\.normalization\.", r"\1.bn."),
    (r"^encoder\.downsample_convs\.(\d)\.conv(\d)\.", r"encoder.downsample_convs.\1.0.cv\2."),
    (r"(fpn|pan)_blocks\.(\d)\.conv1\.", r"\1_blocks.\2.cv1."),
    (r"(fpn|pan)_blocks\.(\d)\.csp_rep1\.", r"\1_blocks.\2.cv2.0."),
    (r"(fpn|pan)_blocks\.(\d)\.conv2\.", r"\1_blocks.\2.cv2.1."),
    (r"(fpn|pan)_blocks\.(\d)\.csp_rep2\.", r"\1_blocks.\2.cv3.0."),
    (r"(fpn|pan)_blocks\.(\d)\.conv3\.", r"\1_blocks.\2.cv3.1."),
    (r"(fpn|pan)_blocks\.(\d)\.conv4\.", r"\1_blocks.\2.cv4."),
]
TRANSFORMER = [
    (r"^encoder_input_proj\.", "encoder.input_proj."),
    (r"^encoder\.aifi\.", "encoder.encoder."),
    (r"^decoder\.class_embed\.", "decoder.dec_score_head."),
    (r"^decoder\.bbox_embed\.", "decoder.dec_bbox_head."),
    (r"^decoder\.(?!query_pos_head|pre_bbox_head|dec_)", "decoder.decoder."),
    (r"\.encoder_attn\.n_points_scale", ".cross_attn.num_points_scale"),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"^(encoder.*)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(decoder.*)\.final_layer_norm\.", r"\1.norm3."),
    (r"\.mlp\.fc([12])\.", r".linear\1."),
    (r"\.mlp\.layers\.0\.", ".linear1."),
    (r"\.mlp\.layers\.1\.", ".linear2."),
    (r"\.o_proj\.", ".out_proj."),
    (r"^decoder_input_proj\.(\d)\.0\.", r"decoder.input_proj.\1.conv."),
    (r"^decoder_input_proj\.(\d)\.1\.", r"decoder.input_proj.\1.norm."),
    (r"^(enc_output|enc_score_head|enc_bbox_head|denoising_class_embed)\.", r"decoder.\1."),
]
NOT_IN_V1 = [
    (r"^encoder\.input_proj\.(\d)\.0\.", r"encoder.input_proj.\1.conv."),
    (r"^encoder\.input_proj\.(\d)\.1\.", r"encoder.input_proj.\1.norm."),
    (r"^decoder\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"^decoder\.enc_output\.1\.", "decoder.enc_output.norm."),
]
LW_DETR_BACKBONE = [  # with the projector
    (r"^model\.backbone\.backbone\.embeddings\.position_embeddings$", "backbone.0.encoder.pos_embed"),
    (r"^model\.backbone\.backbone\.embeddings\.projection\.", "backbone.0.encoder.patch_embed.proj."),
    (r"^model\.backbone\.backbone\.encoder\.layer\.", "backbone.0.encoder.blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.(q|v)_proj\.bias$", r".attn.\1_bias"),
    (r"\.intermediate\.", ".mlp."),
    (r"^model\.backbone\.projector\.scale_layers\.", "backbone.0.projector."),
    (r"\.projector\.(\d)\.sampling_layers\.(\d)\.layers\.", r".projector.stages_sampling.\1.\2."),
    (r"\.projector\.(\d)\.projector_layer\.", r".projector.stages.\1.0."),
    (r"\.projector\.(\d)\.layer_norm\.", r".projector.stages.\1.1."),
    (r"\.bottlenecks\.", ".m."),
    (r"\.conv(\d)\.", r".cv\1."),
    (r"^(backbone\.0\.projector\..*)\.norm\.", r"\1.bn."),
]
LW_DETR = [
    (r"^model\.decoder\.layernorm\.", "transformer.decoder.norm."),
    (r"^model\.reference_point_embed\.", "refpoint_embed."),
    (r"^model\.query_feat\.", "query_feat."),
    (r"^model\.(decoder|enc_)", r"transformer.\1"),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.cross_attn_layer_norm\.", ".norm2."),
    (r"\.layer_norm\.", ".norm3."),
    (r"\.mlp\.fc", ".linear"),
    (r"\.o_proj\.", ".out_proj."),
]


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
