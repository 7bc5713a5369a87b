"""Swin and Swin V2: torchvision's, timm's and Microsoft's own releases, for classification and for dense prediction."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain

from densevit.interfaces import ZEROS, CheckpointLayout, Licences, Line, OtherKeys, Publishing, SpecialTensors
from densevit.layers.windows import ShiftRule
from densevit_backbones import licences
from densevit_backbones.swin.inferred_options import OPTIONS, describe
from densevit_backbones.swin.published_models import MODELS
from densevit_backbones.swin.variants import VARIANTS
from densevit_backbones.swin.window_options import UNSAVED, windows_from_tables

Block = Callable[[str, str], list[Line]]

BLOCKS = [max(variant.blocks[stage] for variant in VARIANTS.values()) for stage in range(4)]  # of the deepest
MISSING = {f"feature_norms.{i}.*": "a norm of the stage's feature map, which a classifier lacks" for i in range(3)}
_HEAD = {"head.*": "the classification head"}


def _common(source: str, target: str, mlp: tuple[str, str]) -> list[Line]:
    return [
        Line(f"{source}.norm1.*", f"{target}.norm1.*"),
        Line(f"{source}.attn.proj.*", f"{target}.attention.output.*"),
        Line(f"{source}.norm2.*", f"{target}.norm2.*"),
        Line(f"{source}.mlp.{mlp[0]}.*", f"{target}.mlp.expand.*"),
        Line(f"{source}.mlp.{mlp[1]}.*", f"{target}.mlp.contract.*"),
    ]


def _version_1(source: str, target: str, mlp: tuple[str, str] = ("fc1", "fc2")) -> list[Line]:
    return [
        *_common(source, target, mlp),
        Line(f"{source}.attn.qkv.*", f"{target}.attention.qkv.*"),
        Line(f"{source}.attn.relative_position_bias_table", f"{target}.attention.relative_position_bias_table"),
    ]


def _version_2(source: str, target: str, mlp: tuple[str, str] = ("fc1", "fc2")) -> list[Line]:
    return [
        *_common(source, target, mlp),
        Line(f"{source}.attn.qkv.weight", f"{target}.attention.qkv.weight"),
        Line(f"{source}.attn.q_bias", f"{target}.attention.query_bias"),
        Line(f"{source}.attn.v_bias", f"{target}.attention.value_bias"),
        Line(f"{source}.attn.logit_scale", f"{target}.attention.logit_scale"),
        Line(f"{source}.attn.cpb_mlp.*", f"{target}.attention.position_mlp.*"),
    ]


def _torchvision_2(source: str, target: str) -> list[Line]:
    """torchvision's query, key and value bias has a part for keys, which its forward pass ignores."""
    return [
        Line(f"{source}.attn.qkv.bias[0/3]", f"{target}.attention.query_bias"),
        Line(f"{source}.attn.qkv.bias[1/3]", ZEROS),
        Line(f"{source}.attn.qkv.bias[2/3]", f"{target}.attention.value_bias"),
        *(line for line in _version_2(source, target, ("0", "3")) if not line.foreign_key.endswith("_bias")),
    ]


def _lines(
    block: Block, stages: tuple[str, ...], mergings: tuple[str, ...], patches: tuple[str, str]
) -> tuple[Line, ...]:
    """Maps the keys of a layout.

    stages, mergings: the checkpoint's keys of the blocks of the four stages, and of the patch mergings before the last
    three. In the model these stages begin with the merging, so their blocks are numbered from 1.
    """
    return (
        Line(f"{patches[0]}.*", "patch_embed.*"),
        Line(f"{patches[1]}.*", "patch_norm.*"),
        *block(f"{stages[0]}.{{b}}", "stages.0.{b}"),
        *(
            line
            for i in (1, 2, 3)
            for line in (
                Line(f"{mergings[i - 1]}.norm.*", f"stages.{i}.0.norm.*"),
                Line(f"{mergings[i - 1]}.reduction.*", f"stages.{i}.0.reduction.*"),
                *chain.from_iterable(block(f"{stages[i]}.{b}", f"stages.{i}.{b + 1}") for b in range(BLOCKS[i])),
            )
        ),
        Line("norm.*", "feature_norms.3.*"),
    )


def _torchvision(block: Block) -> tuple[Line, ...]:
    stages, mergings = tuple(f"features.{i}" for i in (1, 3, 5, 7)), tuple(f"features.{i}" for i in (2, 4, 6))
    return _lines(block, stages, mergings, ("features.0.0", "features.0.2"))


def _layers(block: Block, mergings: tuple[int, int, int]) -> tuple[Line, ...]:
    stages, between = tuple(f"layers.{i}.blocks" for i in range(4)), tuple(f"layers.{i}.downsample" for i in mergings)
    return _lines(block, stages, between, ("patch_embed.proj", "patch_embed.norm"))


def _constants(block: str) -> dict[str, str]:
    """Buffers derived from the window and image size."""
    return {
        f"{block}.attn.relative_position_index": "derived from the window size",
        f"{block}.attn.relative_coords_table": "derived from the window size",
        f"{block}.attn_mask": "a mask derived from the window and image size",
    }


def _layout(
    name: str,
    lines: tuple[Line, ...],
    signature_keys: tuple[str, ...],
    block: str,
    shift: ShiftRule,
    *variants: CheckpointLayout,
) -> CheckpointLayout:
    return CheckpointLayout(
        name=name,
        signature_keys=signature_keys,
        lines=lines,
        describe=partial(describe, shift=shift),
        variants=variants,
        special=SpecialTensors(no_effect=_HEAD | _constants(block), missing=MISSING),
        options=replace(OPTIONS, unsaved=UNSAVED, saved=windows_from_tables) if name.endswith("v2") else OPTIONS,
        publishing=replace(_PUBLISHING[name.partition("-")[0]], models=MODELS.get(name, {})),
    )


_PUBLISHING = {
    "microsoft": Publishing(licences=licences.SWIN, files=licences.SWIN_FILES),
    "timm": Publishing(licences=licences.TIMM, files=licences.TIMM_FILES),
    "torchvision": Publishing(licences=licences.TORCHVISION, files=licences.TORCHVISION_FILES),
}
_TABLE, _SCALE = "attn.relative_position_bias_table", "attn.logit_scale"  # keys of only one of the two versions
_MERGES_FIRST, _MERGES_LAST = (1, 2, 3), (0, 1, 2)  # a layer begins or ends with patch merging
_TORCHVISION_BLOCK, _LAYERS_BLOCK = "features.{s}.{b}", "layers.{s}.blocks.{b}"
_STARTS, _ENDS = "layers.3.downsample.reduction.weight", "layers.0.downsample.reduction.weight"

TORCHVISION_V2 = _layout(
    "torchvision-swinv2",
    _torchvision(_torchvision_2),
    ("features.0.0.weight", f"{_TORCHVISION_BLOCK}.{_SCALE}"),
    _TORCHVISION_BLOCK,
    "per_axis",
)
TORCHVISION = _layout(
    "torchvision-swin",
    _torchvision(partial(_version_1, mlp=("0", "3"))),
    ("features.0.0.weight", f"{_TORCHVISION_BLOCK}.{_TABLE}"),
    _TORCHVISION_BLOCK,
    "per_axis",
    TORCHVISION_V2,
)


def _layers_layout(
    project: str, mergings: tuple[int, int, int], signature_key: str, shift: ShiftRule
) -> CheckpointLayout:
    signature_keys = (signature_key, f"{_LAYERS_BLOCK}.{_SCALE}"), (signature_key, f"{_LAYERS_BLOCK}.{_TABLE}")
    second = _layout(f"{project}-swinv2", _layers(_version_2, mergings), signature_keys[0], _LAYERS_BLOCK, shift)
    return _layout(f"{project}-swin", _layers(_version_1, mergings), signature_keys[1], _LAYERS_BLOCK, shift, second)


TIMM = _layers_layout("timm", _MERGES_FIRST, _STARTS, "per_axis")
MICROSOFT = _layers_layout("microsoft", _MERGES_LAST, _ENDS, "both_axes")
MICROSOFT_DENSE = CheckpointLayout(
    name="microsoft-swin-dense",
    signature_keys=("norm0.weight", _ENDS, f"{_LAYERS_BLOCK}.{_TABLE}"),
    lines=(
        *(line for line in MICROSOFT.lines if line.foreign_key != "norm.*"),
        *(Line(f"norm{i}.*", f"feature_norms.{i}.*") for i in range(4)),
    ),
    describe=partial(describe, shift="dense"),
    other_keys=OtherKeys(
        prefixes=("backbone.",),  # in a detector's or a segmenter's checkpoint
    ),
    special=SpecialTensors(
        no_effect={
            **dict.fromkeys(("neck.*", "rpn_head.*", "roi_head.*"), "the detector"),
            **dict.fromkeys(("decode_head.*", "auxiliary_head.*", "sem_seg_head.*"), "the segmentation head"),
            "criterion.*": "the loss",
            f"{_LAYERS_BLOCK}.attn.relative_position_index": "derived from the window size",
        }
    ),
    options=OPTIONS,
    publishing=Publishing(
        licences=Licences(
            "Apache-2.0",
            data="ImageNet, ADE20K",
            teacher="none",
            source="https://github.com/SwinTransformer/Swin-Transformer-Semantic-Segmentation/blob/87e6f90/LICENSE",
            date="2026-11-29",
        )
    ),
)
