"""transformers' Swin and Swinv2. Files have the keys of version 4; a Swin model in version 5 has other keys."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import CheckpointLayout, Class, Line, OtherKeys, Publishing, SpecialTensors, StateDict
from densevit_backbones.licences import SWIN_FILES, TRANSFORMERS
from densevit_backbones.swin.checkpoints import BLOCKS, MISSING
from densevit_backbones.swin.inferred_options import OPTIONS, describe
from densevit_backbones.swin.published_models import MODELS
from densevit_backbones.swin.variants import VARIANTS
from densevit_backbones.swin.window_options import UNSAVED, windows_from_config

Block = Callable[[str, str], list[Line]]


def _files_1(source: str, target: str) -> list[Line]:
    parts = enumerate(("query", "key", "value"))
    return [
        *(Line(f"{source}.attention.self.{name}.*", f"{target}.attention.qkv.*[{part}/3]") for part, name in parts),
        Line(
            f"{source}.attention.self.relative_position_bias_table", f"{target}.attention.relative_position_bias_table"
        ),
        Line(f"{source}.attention.output.dense.*", f"{target}.attention.output.*"),
        Line(f"{source}.intermediate.dense.*", f"{target}.mlp.expand.*"),
        Line(f"{source}.output.dense.*", f"{target}.mlp.contract.*"),
    ]


def _files_2(source: str, target: str) -> list[Line]:
    attention, attention_target = f"{source}.attention.self", f"{target}.attention"
    parts = enumerate(("query", "key", "value"))
    return [
        *(Line(f"{attention}.{name}.weight", f"{attention_target}.qkv.weight[{part}/3]") for part, name in parts),
        Line(f"{attention}.query.bias", f"{attention_target}.query_bias"),
        Line(f"{attention}.value.bias", f"{attention_target}.value_bias"),
        Line(f"{attention}.logit_scale", f"{attention_target}.logit_scale"),
        Line(f"{attention}.continuous_position_bias_mlp.*", f"{attention_target}.position_mlp.*"),
        Line(f"{source}.attention.output.dense.*", f"{attention_target}.output.*"),
        Line(f"{source}.intermediate.dense.*", f"{target}.mlp.expand.*"),
        Line(f"{source}.output.dense.*", f"{target}.mlp.contract.*"),
    ]


_BLOCK, _ATTENTION = "encoder.layers.{s}.blocks.{b}", "encoder.layers.{s}.blocks.{b}.attention"
_TABLE = "relative_position_bias_table"
_MEMORY_1 = (  # the keys of a Swin model in version 5, and of its files
    *((f"{_ATTENTION}.{name[0]}_proj.*", f"{_ATTENTION}.self.{name}.*") for name in ("query", "key", "value")),
    (f"{_ATTENTION}.relative_position_bias.*", f"{_ATTENTION}.self.*"),
    (f"{_ATTENTION}.o_proj.*", f"{_ATTENTION}.output.dense.*"),
    (f"{_BLOCK}.mlp.fc1.*", f"{_BLOCK}.intermediate.dense.*"),
    (f"{_BLOCK}.mlp.fc2.*", f"{_BLOCK}.output.dense.*"),
)


def _lines(block: Block) -> tuple[Line, ...]:
    """In the model a stage begins with the merging that ends the checkpoint's previous stage, so blocks are numbered
    from 1."""
    blocks = [(s, b, f"encoder.layers.{s}.blocks.{b}") for s, count in enumerate(BLOCKS) for b in range(count)]
    return (
        Line("embeddings.patch_embeddings.projection.*", "patch_embed.*"),
        Line("embeddings.norm.*", "patch_norm.*"),
        Line("layernorm.*", "feature_norms.3.*"),
        *(
            line
            for s, b, source in blocks
            for line in (
                *([Line(f"encoder.layers.{s - 1}.downsample.*", f"stages.{s}.0.*")] if s > 0 and b == 0 else []),
                Line(f"{source}.layernorm_before.*", f"stages.{s}.{b + (s > 0)}.norm1.*"),
                Line(f"{source}.layernorm_after.*", f"stages.{s}.{b + (s > 0)}.norm2.*"),
                *block(source, f"stages.{s}.{b + (s > 0)}"),
            )
        ),
    )


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


def _saved_windows(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The windows of Swinv2, from config.json. Raises WeightsError if it has other attention heads than the variant."""
    config = metadata.get("config", {})
    width, heads = config.get("embed_dim"), config.get("num_heads")
    possible = [list(variant.heads) for variant in VARIANTS.values() if variant.width == width]
    if heads is not None and possible and list(heads) not in possible:
        raise WeightsError(
            f"config.json has {heads} attention heads for {width} channels; a Swin of that width is built with "
            f"{possible[0]}, and would compute something else. Use the backbone `timm`, or a layout of your own."
        )
    return windows_from_config(state, metadata)


def _layout(
    name: str,
    block: Block,
    signature_key: str,
    unsaved: tuple[str, ...] = (),
    spellings: tuple[tuple[str, str], ...] = (),
    variants: tuple[CheckpointLayout, ...] = (),
) -> CheckpointLayout:
    """signature_key: a key of an attention layer that only this version has. A classifier's keys begin with the model's
    name."""
    return CheckpointLayout(
        name=name,
        signature_keys=(
            "embeddings.patch_embeddings.projection.weight",
            f"encoder.layers.0.blocks.0.attention.self.{signature_key}",
            "encoder.layers.0.downsample.reduction.weight",
        ),
        lines=_lines(block),
        describe=partial(describe, shift="both_axes"),
        other_keys=OtherKeys((f"{name.removeprefix('transformers-')}.",), spellings),
        special=SpecialTensors(
            no_effect={
                "classifier.*": "the classification head",
                "embeddings.mask_token": "the mask token of pre-training",
                "decoder.*": "the decoder of pre-training",
                f"{_ATTENTION}.self.relative_position_index": "derived from the window size",
                f"{_ATTENTION}.self.relative_coords_table": "derived from the window size",
            },
            missing=MISSING,
        ),
        options=replace(
            OPTIONS,
            unsaved=unsaved,
            saved=_saved_windows,
            implied={"hidden_act": ("gelu",), "mlp_ratio": (4, 4.0), "use_absolute_embeddings": (False,)},
        ),
        publishing=Publishing(licences=TRANSFORMERS, files=SWIN_FILES, models=MODELS[name], config_files=_config),
        variants=variants,
    )


SWINV2 = _layout("transformers-swinv2", _files_2, "logit_scale", unsaved=UNSAVED)
SWIN = _layout("transformers-swin", _files_1, _TABLE, spellings=_MEMORY_1, variants=(SWINV2,))
