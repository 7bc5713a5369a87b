"""transformers' UperNetForSemanticSegmentation on its Swin or ConvNeXt, with the keys of files and of models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Licences,
    Line,
    OtherKeys,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import backbone_lines, count, find, part
from densevit_heads.parts.class_map_checkpoints import classes_of, label_maps
from densevit_heads.parts.convolution_checkpoints import conv_norm
from densevit_heads.upernet.published_models import MODELS

_LICENCES = Licences(
    "Apache-2.0",
    "unknown",
    "ImageNet, ADE20K",
    "none",
    "https://github.com/open-mmlab/mmsegmentation/blob/0032f0b/LICENSE",
    "2026-11-29",
)
_FILES = {
    "hf:openmmlab/upernet-swin-[ts]*": replace(
        _LICENCES, weights="MIT", source="https://huggingface.co/openmmlab/upernet-swin-tiny"
    ),
    "hf:openmmlab/upernet-*": _LICENCES,
}

_HEAD = "heads.segmentation"
_SWIN, _DENSE = find("transformers-swin"), find("microsoft-swin-dense")  # SwinBackbone has the second's shift rule
_CONVNEXT: dict[tuple[int, tuple[int, ...]], str] = {  # timm's models, by width and blocks per stage
    (96, (3, 3, 9, 3)): "convnext_tiny",
    (96, (3, 3, 27, 3)): "convnext_small",
    (128, (3, 3, 27, 3)): "convnext_base",
    (192, (3, 3, 27, 3)): "convnext_large",
    (256, (3, 3, 27, 3)): "convnext_xlarge",
}
_STAGES = [f"stage{i}" for i in range(1, 5)]
_NORMS = [f"backbone.hidden_states_norms.{stage}.*" for stage in _STAGES]


_HEAD_LINES = (
    *conv_norm("decode_head.psp_modules.{i}.1", f"{_HEAD}.pooling.convolutions.{{i}}", "batch_norm"),
    *conv_norm("decode_head.bottleneck", f"{_HEAD}.bottleneck", "batch_norm"),
    *conv_norm("decode_head.lateral_convs.{i}", f"{_HEAD}.laterals.{{i}}", "batch_norm"),
    *conv_norm("decode_head.fpn_convs.{i}", f"{_HEAD}.outputs.{{i}}", "batch_norm"),
    *conv_norm("decode_head.fpn_bottleneck", f"{_HEAD}.fuse", "batch_norm"),
    Line("decode_head.classifier.*", f"{_HEAD}.classifier.*"),
    *conv_norm("auxiliary_head.convs.0", f"{_HEAD}.auxiliary.0", "batch_norm"),
    Line("auxiliary_head.classifier.*", f"{_HEAD}.auxiliary.1.*"),
)


def _head(tensors: StateDict) -> dict[str, Any]:
    """The head's section, from tensors with densevit's keys."""
    width = len(tensors[f"{_HEAD}.bottleneck.0.weight"])
    auxiliary = tensors.get(f"{_HEAD}.auxiliary.0.0.weight")
    section: dict[str, Any] = {"name": "upernet", "width": width}
    section |= {"auxiliary_weight": 0.0} if auxiliary is None else {"auxiliary_width": len(auxiliary)}
    return {"heads": {"segmentation": section}}


def _describe_convnext(tensors: StateDict) -> dict[str, Any]:
    width = len(tensors["backbone.model.stem.0.weight"])
    blocks = tuple(count(tensors, rf"backbone\.model\.stages\.{i}\.blocks\.(\d+)\.norm\.weight") for i in range(4))
    if (width, blocks) not in _CONVNEXT:
        raise WeightsError(
            f"A ConvNeXt of {width} channels and {blocks} blocks is not a known variant: "
            f"{', '.join(f'{name} {sizes}' for sizes, name in _CONVNEXT.items())}."
        )
    sections = _head(tensors)
    sections["heads"]["segmentation"]["feature_norm"] = True
    return {"backbone": {"name": "timm", "model": _CONVNEXT[width, blocks]}, **sections}


def _convnext_lines() -> tuple[Line, ...]:
    stage, block = "backbone.encoder.stages.{s}", "backbone.encoder.stages.{s}.layers.{b}"
    target = "backbone.model.stages.{s}.blocks.{b}"
    names = {"dwconv": "conv_dw", "layernorm": "norm", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2"}
    return (
        Line("backbone.embeddings.patch_embeddings.*", "backbone.model.stem.0.*"),
        Line("backbone.embeddings.layernorm.*", "backbone.model.stem.1.*"),
        Line(f"{stage}.downsampling_layer.{{i}}.*", "backbone.model.stages.{s}.downsample.{i}.*"),
        *(Line(f"{block}.{name}.*", f"{target}.{part}.*") for name, part in names.items()),
        Line(f"{block}.layer_scale_parameter", f"{target}.gamma"),
        *(Line(norm, f"{_HEAD}.feature_norms.{i}.*") for i, norm in enumerate(_NORMS)),
    )


def _swin_lines() -> tuple[Line, ...]:
    lines = [line for line in backbone_lines(_SWIN.name, "backbone.") if "feature_norms" not in line.key]
    return (*lines, *(Line(norm, f"backbone.feature_norms.{i}.*") for i, norm in enumerate(_NORMS)))


def _recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training on ADE20K; on label maps of the classes if they are not ADE20K's 150."""
    backbone, labels = sections["backbone"], classes.get("segmentation", ())
    model = "swin_tiny" if backbone["name"] == "swin" else str(backbone["model"])
    recipe = f"ade20k/upernet_{model if model.endswith('_tiny') else 'convnext_small'}"
    return recipe, {} if len(labels) == 150 else label_maps(labels)


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    backbone, head = sections["backbone"], sections["heads"]["segmentation"]
    if tuple(head.get("pool_scales", (1, 2, 3, 6))) != (1, 2, 3, 6):
        return {}
    if backbone["name"] == "swin":
        files = _SWIN.publishing.config_files({"backbone": backbone}, part(state, "backbone."), ())
        if not files:
            return {}
        inner = files["config.json"]
    else:
        (width, blocks), _ = next(item for item in _CONVNEXT.items() if item[1] == backbone["model"])
        inner = {"model_type": "convnext", "depths": [*blocks], "hidden_sizes": [width * 2**i for i in range(4)]}
    config = {
        "model_type": "upernet",
        "architectures": ["UperNetForSemanticSegmentation"],
        "backbone_config": inner | {"out_features": _STAGES},
        "hidden_size": head["width"],
        "use_auxiliary_head": "auxiliary_width" in head,
        "auxiliary_channels": head.get("auxiliary_width", 256),
    }
    return {"config.json": config}


def _layout(
    name: str,
    signature_keys: tuple[str, ...],
    lines: tuple[Line, ...],
    describe: Callable[[StateDict], dict[str, Any]],
) -> CheckpointLayout:
    return CheckpointLayout(
        name=name,
        signature_keys=(
            *signature_keys,
            "decode_head.psp_modules.{i}.1.conv.weight",
            "decode_head.fpn_bottleneck.conv.weight",
        ),
        lines=(*lines, *_HEAD_LINES),
        describe=describe,
        classes=partial(classes_of, bias="decode_head.classifier.bias"),
        options=LayoutOptions(implied=_IMPLIED),
        publishing=Publishing(
            licences=_LICENCES, files=_FILES, models=MODELS[name], config_files=_config, recipe=_recipe
        ),
    )


_IMPLIED = {
    "pool_scales": ([1, 2, 3, 6],),
    "auxiliary_num_convs": (1,),
    "auxiliary_concat_input": (False,),
    "backbone_config.hidden_act": ("gelu",),
}


CONVNEXT = _layout(
    "transformers-upernet-convnext",
    (
        "backbone.embeddings.patch_embeddings.weight",
        "backbone.encoder.stages.{s}.layers.{b}.dwconv.weight",
        "backbone.hidden_states_norms.stage4.weight",
    ),
    _convnext_lines(),
    _describe_convnext,
)
SWIN = replace(
    _layout(
        "transformers-upernet",
        (
            "backbone.embeddings.patch_embeddings.projection.weight",
            "backbone.encoder.layers.{s}.blocks.{b}.attention.self.relative_position_bias_table",
            "backbone.hidden_states_norms.stage4.weight",
        ),
        _swin_lines(),
        lambda tensors: {**_DENSE.describe(part(tensors, "backbone.")), **_head(tensors)},
    ),
    options=replace(_DENSE.options, implied=_IMPLIED),
    other_keys=OtherKeys(
        spellings=(
            *((f"backbone.swin.{memory}", f"backbone.{name}") for memory, name in _SWIN.other_keys.spellings),
            ("backbone.swin.*", "backbone.*"),
        )
    ),
    special=SpecialTensors(
        no_effect={
            "backbone.layernorm.*": "a norm of the last feature map, which has its own",
            "backbone.swin.layernorm.*": "a norm of the last feature map, which has its own",
            "backbone.encoder.layers.{s}.blocks.{b}.attention.self.relative_position_index": "derived from the window "
            "size",
        }
    ),
    variants=(CONVNEXT,),
)
