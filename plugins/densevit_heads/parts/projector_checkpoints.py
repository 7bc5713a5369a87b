"""The projector in checkpoints of RF-DETR and LW-DETR, the authors' and transformers', for the detectors' layouts."""

from collections.abc import Mapping
from typing import Any

from densevit.interfaces import Line, StateDict
from densevit.layouts import count

UNSAVED = ("heads.detection.neck.norm_eps",)
"""The option that no tensor determines."""

_AUTHORS, _LW, _RF = "backbone.0.projector", "model.backbone.projector.scale_layers.{i}", "model.backbone.projector"


def lines(sampling: str, fusion: str, block: str, norm: str, last: str, task: str = "detection") -> tuple[Line, ...]:
    """Maps the keys of a projector level. The parameters are keys of the checkpoint; task: the head's task.

    sampling: resampling layer `{k}` of feature `{j}`. fusion, block: convolutions of a C2f block and its bottlenecks,
    without their number 1 or 2. norm: the norm of a convolution. last: the norm of the level.
    """
    level = f"necks.{task}.levels.{{i}}"
    sampled = f"{level}.samplings.{{j}}.{{k}}"
    convolutions = (
        (f"{fusion}1", f"{level}.fusion.enter"),
        (f"{fusion}2", f"{level}.fusion.leave"),
        (f"{block}1", f"{level}.fusion.blocks.{{j}}.0"),
        (f"{block}2", f"{level}.fusion.blocks.{{j}}.1"),
        (sampling, sampled),
    )
    return (
        *(Line(f"{source}.conv.*", f"{target}.0.*") for source, target in convolutions),
        *(Line(f"{source}.{norm}.*", f"{target}.1.*") for source, target in convolutions),
        Line(f"{sampling}.weight", f"{sampled}.weight"),
        Line(f"{sampling}.bias", f"{sampled}.bias"),
        Line(f"{last}.*", f"{level}.norm.*"),
    )


def authors(prefix: str, norm: str, task: str = "detection") -> tuple[Line, ...]:
    """`lines` of LW-DETR, RF-DETR and GTR. prefix: the projector's prefix."""
    stage = f"{prefix}.stages.{{i}}"
    return lines(
        f"{prefix}.stages_sampling.{{i}}.{{j}}.{{k}}",
        f"{stage}.0.cv",
        f"{stage}.0.m.{{j}}.cv",
        norm,
        f"{stage}.1",
        task,
    )


AUTHORS = authors(_AUTHORS, "bn")
TRANSFORMERS_LW_DETR = lines(
    f"{_LW}.sampling_layers.{{j}}.layers.{{k}}",
    f"{_LW}.projector_layer.conv",
    f"{_LW}.projector_layer.bottlenecks.{{j}}.conv",
    "norm",
    f"{_LW}.layer_norm",
)
RF_DETR_SPELLINGS = (  # of transformers' models, which have one level; its files have the authors' keys
    *(
        (f"{_RF}.projector_layer.{model}conv{i}.{layer}.*", f"{_AUTHORS}.stages.0.0.{file}cv{i}.{name}.*")
        for model, file in (("", ""), ("bottlenecks.{j}.", "m.{j}."))
        for i in (1, 2)
        for layer, name in (("conv", "conv"), ("norm", "bn"))
    ),
    (f"{_RF}.layer_norm.*", f"{_AUTHORS}.stages.0.1.*"),
)


def describe(tensors: StateDict, patch_size: int) -> dict[str, Any]:
    """The options of the neck, from tensors with densevit's keys. patch_size: the backbone's stride."""
    strides = []
    for i in range(count(tensors, r"levels\.(\d+)\.norm\.weight")):
        up = count(tensors, rf"levels\.{i}\.samplings\.0\.(\d+)\.bias")  # a deconvolution
        down = f"levels.{i}.samplings.0.0.0.weight" in tensors
        strides.append(patch_size // 2 if up else 2 * patch_size if down else patch_size)
    return {
        "name": "projector",
        "width": len(tensors["levels.0.norm.weight"]),
        "pyramid_strides": tuple(strides),
        "norm": "batch" if "levels.0.fusion.enter.1.running_mean" in tensors else "layer",
        "num_blocks": count(tensors, r"levels\.0\.fusion\.blocks\.(\d+)\.0\.0\.weight"),
    }


def saved(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The epsilon in RF-DETR's config.json, if present."""
    config = metadata.get("config", {})
    return {UNSAVED[0]: config["layer_norm_eps"]} if "layer_norm_eps" in config else {}
