"""transformers' Swin and Swinv2. Files have the keys of version 4; a Swin model in version 5 has other keys."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, Line, StateDict
from densevit_backbones.swin.checkpoints import BLOCKS, FRESH
from densevit_backbones.swin.inferred_options import CONVENTIONS, describe
from densevit_backbones.swin.variants import VARIANTS
from densevit_backbones.swin.window_options import UNRECORDED, of_config

Block = Callable[[str, str], list[Line]]


def _files_1(theirs: str, ours: str) -> list[Line]:
    parts = enumerate(("query", "key", "value"))
    return [
        *(Line(f"{theirs}.attention.self.{name}.*", f"{ours}.attention.qkv.*[{part}/3]") for part, name in parts),
        Line(f"{theirs}.attention.self.relative_position_bias_table", f"{ours}.attention.relative_position_bias_table"),
        Line(f"{theirs}.attention.output.dense.*", f"{ours}.attention.output.*"),
        Line(f"{theirs}.intermediate.dense.*", f"{ours}.mlp.expand.*"),
        Line(f"{theirs}.output.dense.*", f"{ours}.mlp.contract.*"),
    ]


def _files_2(theirs: str, ours: str) -> list[Line]:
    attention, own = f"{theirs}.attention.self", f"{ours}.attention"
    parts = enumerate(("query", "key", "value"))
    return [
        *(Line(f"{attention}.{name}.weight", f"{own}.qkv.weight[{part}/3]") for part, name in parts),
        Line(f"{attention}.query.bias", f"{own}.query_bias"),
        Line(f"{attention}.value.bias", f"{own}.value_bias"),
        Line(f"{attention}.logit_scale", f"{own}.logit_scale"),
        Line(f"{attention}.continuous_position_bias_mlp.*", f"{own}.position_mlp.*"),
        Line(f"{theirs}.attention.output.dense.*", f"{own}.output.*"),
        Line(f"{theirs}.intermediate.dense.*", f"{ours}.mlp.expand.*"),
        Line(f"{theirs}.output.dense.*", f"{ours}.mlp.contract.*"),
    ]


def _memory_1(theirs: str, ours: str) -> list[Line]:
    table = "relative_position_bias_table"
    parts = enumerate(("q_proj", "k_proj", "v_proj"))
    return [
        *(Line(f"{theirs}.attention.{name}.*", f"{ours}.attention.qkv.*[{part}/3]") for part, name in parts),
        Line(f"{theirs}.attention.relative_position_bias.{table}", f"{ours}.attention.{table}"),
        Line(f"{theirs}.attention.o_proj.*", f"{ours}.attention.output.*"),
        Line(f"{theirs}.mlp.fc1.*", f"{ours}.mlp.expand.*"),
        Line(f"{theirs}.mlp.fc2.*", f"{ours}.mlp.contract.*"),
    ]


_MARKS: dict[Block, str] = {  # a key of only this kind of block
    _files_1: "attention.self.relative_position_bias_table",
    _files_2: "attention.self.logit_scale",
    _memory_1: "attention.relative_position_bias.relative_position_bias_table",
}


def _lines(own: Block, prefix: str) -> tuple[Line, ...]:
    """Our stages begin with the merging that ends their previous stage, so our blocks are numbered from 1."""
    lines = [
        Line(f"{prefix}embeddings.patch_embeddings.projection.*", "patch_embed.*"),
        Line(f"{prefix}embeddings.norm.*", "patch_norm.*"),
        Line(f"{prefix}layernorm.*", "feature_norms.3.*"),
    ]
    for s, count in enumerate(BLOCKS):
        if s > 0:
            lines.append(Line(f"{prefix}encoder.layers.{s - 1}.downsample.*", f"stages.{s}.0.*"))
        for b in range(count):
            theirs, ours = f"{prefix}encoder.layers.{s}.blocks.{b}", f"stages.{s}.{b + (s > 0)}"
            lines.append(Line(f"{theirs}.layernorm_before.*", f"{ours}.norm1.*"))
            lines.append(Line(f"{theirs}.layernorm_after.*", f"{ours}.norm2.*"))
            lines += own(theirs, ours)
    return tuple(lines)


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    """transformers has one window size and limits it to the feature map of an image of `image_size`."""
    options = sections["backbone"]
    width, blocks, heads, _ = VARIANTS[options["variant"]]
    version = options.get("version", 1)
    windows = options.get("window_size") or (8 if version == 2 else 7)
    windows = (windows,) * 4 if isinstance(windows, int) else tuple(windows)
    side = 32 * windows[3]
    if any(window != min(windows[0], side // (4 * 2**i)) for i, window in enumerate(windows)):
        return {}
    config: dict[str, Any] = {
        "model_type": "swin",
        "architectures": ["SwinModel"],
        "embed_dim": width,
        "depths": [*blocks],
        "num_heads": [*heads],
        "window_size": windows[0],
        "image_size": side,
        "patch_size": 4,
        "num_channels": 3,
        "qkv_bias": True,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
    }
    if version == 2:
        before = options.get("pretrained_window_sizes") or (0, 0, 0, 0)
        config |= {"model_type": "swinv2", "architectures": ["Swinv2Model"], "pretrained_window_sizes": [*before]}
    return {"config.json": config}


def _layout(name: str, own: Block, prefix: str) -> CheckpointLayout:
    lines = _lines(own, prefix)
    block = f"{prefix}encoder.layers.{{s}}.blocks.{{b}}.attention.self"
    return CheckpointLayout(
        name=name,
        part="backbone",
        marks=(
            f"{prefix}embeddings.patch_embeddings.projection.weight",
            f"{prefix}encoder.layers.0.blocks.0.{_MARKS[own]}",
            f"{prefix}encoder.layers.0.downsample.reduction.weight",
        ),
        lines=lines,
        describe=partial(describe, shift="both_axes"),
        no_effect={
            "classifier.*": "the classification head",
            f"{prefix}embeddings.mask_token": "the mask token of pre-training",
            "decoder.*": "the decoder of pre-training",
            f"{block}.relative_position_index": "derived from the window size",
            f"{block}.relative_coords_table": "derived from the window size",
        },
        fresh=FRESH,
        unrecorded=UNRECORDED if own is _files_2 else (),
        saved_options=of_config if own is _files_2 else None,
        usage_options=CONVENTIONS,
        conventions=CONVENTIONS,
        config_files=_config,
    )


SWIN = _layout("transformers-swin", _files_1, "")
SWIN_CLASSIFIER = _layout("transformers-swin-classifier", _files_1, "swin.")
SWIN_V5 = _layout("transformers-swin-v5", _memory_1, "")
SWIN_CLASSIFIER_V5 = _layout("transformers-swin-classifier-v5", _memory_1, "swin.")
SWINV2 = _layout("transformers-swinv2", _files_2, "")
SWINV2_CLASSIFIER = _layout("transformers-swinv2-classifier", _files_2, "swinv2.")
