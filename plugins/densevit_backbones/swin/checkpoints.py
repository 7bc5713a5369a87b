"""Swin and Swin V2: torchvision's, timm's and Microsoft's own releases, for classification and for dense prediction."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from densevit.interfaces import ZEROS, CheckpointLayout, Line, OtherKeys, Publishing, SpecialTensors
from densevit.layers.windows import ShiftRule
from densevit_backbones.swin.inferred_options import OPTIONS, describe
from densevit_backbones.swin.variants import VARIANTS
from densevit_backbones.swin.window_options import UNSAVED, of_tables

Block = Callable[[str, str], list[Line]]

BLOCKS = [max(variant.blocks[stage] for variant in VARIANTS.values()) for stage in range(4)]  # of the deepest
MISSING = {f"feature_norms.{i}.*": "a norm of the stage's feature map, which a classifier lacks" for i in range(3)}
_HEAD = {"head.*": "the classification head"}


def _common(theirs: str, ours: str, mlp: tuple[str, str]) -> list[Line]:
    return [
        Line(f"{theirs}.norm1.*", f"{ours}.norm1.*"),
        Line(f"{theirs}.attn.proj.*", f"{ours}.attention.output.*"),
        Line(f"{theirs}.norm2.*", f"{ours}.norm2.*"),
        Line(f"{theirs}.mlp.{mlp[0]}.*", f"{ours}.mlp.expand.*"),
        Line(f"{theirs}.mlp.{mlp[1]}.*", f"{ours}.mlp.contract.*"),
    ]


def _version_1(theirs: str, ours: str, mlp: tuple[str, str] = ("fc1", "fc2")) -> list[Line]:
    return [
        *_common(theirs, ours, mlp),
        Line(f"{theirs}.attn.qkv.*", f"{ours}.attention.qkv.*"),
        Line(f"{theirs}.attn.relative_position_bias_table", f"{ours}.attention.relative_position_bias_table"),
    ]


def _version_2(theirs: str, ours: str, mlp: tuple[str, str] = ("fc1", "fc2")) -> list[Line]:
    return [
        *_common(theirs, ours, mlp),
        Line(f"{theirs}.attn.qkv.weight", f"{ours}.attention.qkv.weight"),
        Line(f"{theirs}.attn.q_bias", f"{ours}.attention.query_bias"),
        Line(f"{theirs}.attn.v_bias", f"{ours}.attention.value_bias"),
        Line(f"{theirs}.attn.logit_scale", f"{ours}.attention.logit_scale"),
        Line(f"{theirs}.attn.cpb_mlp.*", f"{ours}.attention.position_mlp.*"),
    ]


def _torchvision_1(theirs: str, ours: str) -> list[Line]:
    return _version_1(theirs, ours, ("0", "3"))


def _torchvision_2(theirs: str, ours: str) -> list[Line]:
    """torchvision's query, key and value bias has a part for keys, which its forward pass ignores."""
    return [
        Line(f"{theirs}.attn.qkv.bias[0/3]", f"{ours}.attention.query_bias"),
        Line(f"{theirs}.attn.qkv.bias[1/3]", ZEROS),
        Line(f"{theirs}.attn.qkv.bias[2/3]", f"{ours}.attention.value_bias"),
        *(line for line in _version_2(theirs, ours, ("0", "3")) if not line.foreign_key.endswith("_bias")),
    ]


def _lines(
    block: Block, stages: tuple[str, ...], mergings: tuple[str, ...], patches: tuple[str, str]
) -> tuple[Line, ...]:
    """The lines of a layout. stages, mergings: their keys of the blocks of the four stages, and of the patch mergings
    before the last three stages.

    Our stages begin with the merging, so their blocks are numbered from 1.
    """
    lines = [Line(f"{patches[0]}.*", "patch_embed.*"), Line(f"{patches[1]}.*", "patch_norm.*")]
    lines += block(f"{stages[0]}.{{b}}", "stages.0.{b}")
    for i in (1, 2, 3):
        lines += [Line(f"{mergings[i - 1]}.{part}.*", f"stages.{i}.0.{part}.*") for part in ("norm", "reduction")]
        for b in range(BLOCKS[i]):
            lines += block(f"{stages[i]}.{b}", f"stages.{i}.{b + 1}")
    return (*lines, Line("norm.*", "feature_norms.3.*"))


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
    marks: tuple[str, ...],
    block: str,
    shift: ShiftRule,
    *variants: CheckpointLayout,
) -> CheckpointLayout:
    return CheckpointLayout(
        name=name,
        marks=marks,
        lines=lines,
        describe=partial(describe, shift=shift),
        variants=variants,
        special=SpecialTensors(no_effect=_HEAD | _constants(block), missing=MISSING),
        options=replace(OPTIONS, unsaved=UNSAVED, saved=of_tables) if name.endswith("v2") else OPTIONS,
        publishing=Publishing(licence=_LICENCE if name.startswith("microsoft") else ""),
    )


_LICENCE = "MIT (microsoft/Swin-Transformer)"
_TABLE, _SCALE = "attn.relative_position_bias_table", "attn.logit_scale"  # keys of only one of the two versions
_MERGES_FIRST, _MERGES_LAST = (1, 2, 3), (0, 1, 2)  # a layer begins or ends with patch merging
_OF_TORCHVISION, _OF_LAYERS = "features.{s}.{b}", "layers.{s}.blocks.{b}"
_STARTS, _ENDS = "layers.3.downsample.reduction.weight", "layers.0.downsample.reduction.weight"

TORCHVISION_V2 = _layout(
    "torchvision-swinv2",
    _torchvision(_torchvision_2),
    ("features.0.0.weight", f"{_OF_TORCHVISION}.{_SCALE}"),
    _OF_TORCHVISION,
    "per_axis",
)
TORCHVISION = _layout(
    "torchvision-swin",
    _torchvision(_torchvision_1),
    ("features.0.0.weight", f"{_OF_TORCHVISION}.{_TABLE}"),
    _OF_TORCHVISION,
    "per_axis",
    TORCHVISION_V2,
)


def _of_layers(project: str, mergings: tuple[int, int, int], mark: str, shift: ShiftRule) -> CheckpointLayout:
    marks = (mark, f"{_OF_LAYERS}.{_SCALE}"), (mark, f"{_OF_LAYERS}.{_TABLE}")
    second = _layout(f"{project}-swinv2", _layers(_version_2, mergings), marks[0], _OF_LAYERS, shift)
    return _layout(f"{project}-swin", _layers(_version_1, mergings), marks[1], _OF_LAYERS, shift, second)


TIMM = _of_layers("timm", _MERGES_FIRST, _STARTS, "per_axis")
MICROSOFT = _of_layers("microsoft", _MERGES_LAST, _ENDS, "both_axes")
MICROSOFT_DENSE = CheckpointLayout(
    name="microsoft-swin-dense",
    marks=("norm0.weight", _ENDS, f"{_OF_LAYERS}.{_TABLE}"),
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
            f"{_OF_LAYERS}.attn.relative_position_index": "derived from the window size",
        }
    ),
    options=OPTIONS,
    publishing=Publishing(
        licence="MIT (SwinTransformer/Swin-Transformer-Semantic-Segmentation)",
    ),
)
