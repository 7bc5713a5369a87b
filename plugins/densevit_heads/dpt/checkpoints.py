"""isl-org/DPT (Ranftl et al. 2021): complete models on a ViT and on the hybrid, for depth and segmentation.

The NYU and KITTI models invert their output with a scale and a shift, which tensors do not determine. They are read as
relative depth; for metres set `--as dpt-hybrid-nyu` or `--as dpt-hybrid-kitti`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Licences,
    Line,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import added_to_tokens, backbone_lines, by_name_only, find, part
from densevit_heads.dpt import published_models
from densevit_heads.parts.class_map_checkpoints import classes_of, label_maps

LICENCES = Licences(
    "MIT", "MIT", "MIX 6", "none", "https://github.com/isl-org/DPT/blob/cd3fe90/README.md", "2026-11-29"
)
_INTEL = replace(LICENCES, weights="Apache-2.0", source="https://huggingface.co/Intel/dpt-large")
FILES = {
    "dpt_*-ade20k-*.pt": replace(LICENCES, data="ADE20K"),
    "dpt_hybrid[_-][nk]*.pt": replace(LICENCES, data="MIX 6; NYU or KITTI"),
    "dpt_*.pt": LICENCES,
    "hf:Intel/dpt-large-ade": replace(_INTEL, data="ADE20K"),
    "hf:Intel/dpt-large": _INTEL,
    "hf:Intel/dpt-*": replace(LICENCES, weights="unknown"),  # the model card states it
}

Task = Literal["depth", "segmentation"]
_VIT = find("timm-vit")
HALVES = (0.5, 0.5, 0.5)  # mean and std of all models
PLACES = (4, 8, 16, 32)  # strides of the four fusions

UNUSED_NORM = "the ViT's last norm; feature maps are taken before it"
UNUSED_UNIT = "a residual unit for a skip connection that the first fusion lacks"

# The output of the models fine-tuned for metric depth, in 1 / metres (`run_monodepth.py`).
NYU = {"output": "inverse", "scale": 0.000305, "shift": 0.1378, "max_depth": 10.0}
KITTI = {"output": "inverse", "scale": 0.00006016, "shift": 0.00579, "max_depth": 80.0}

STD = {"weight_standardization": "std"}  # timm 0.4.5's, which isl-org/DPT requires; timm 0.4.12 changed it


def decoder_lines(task: Task, sources: Callable[[int], Mapping[str, str]], hybrid: bool = False) -> list[Line]:
    """Maps the keys of the decoder, with those of the backbone's readouts. sources: the checkpoint's keys by layer, for
    feature map i. hybrid: whether the first two feature maps are the ResNet's, without readout and reassembly."""
    lines, decode = list[Line](), f"heads.{task}.decode"
    for i, stride in enumerate(PLACES):
        fuse, targets = f"{decode}.fuse.{stride}", dict[str, str]()
        if i > 1 or not hybrid:
            targets = {
                "readout": f"backbone.readouts.{i - 2 if hybrid else i}.projection.*",
                "reassemble": f"{decode}.reassemble.{i}.projection.*",
                "resample": f"{decode}.reassemble.{i}.resample{'.0' if stride == 32 else ''}.*",
            }
        targets |= {
            "project": f"{decode}.project.{i}.*",
            "convolutions": f"{fuse}.residual{{u}}.conv{{c}}.*",
            "norms": f"{fuse}.residual{{u}}.norm{{c}}.*",
            "fuse": f"{fuse}.projection.*",
        }
        lines += [Line(source, targets[layer]) for layer, source in sources(i).items() if layer in targets]
    return lines


def output_lines(task: Task, output: str, auxiliary: str) -> list[Line]:
    """Maps the keys of the layers after the decoder. output, auxiliary: the checkpoint's prefixes of these layers."""
    if task == "depth":
        return [Line(f"{output}.{2 * i}.*", f"heads.depth.conv{i + 1}.*") for i in range(3)]
    return [
        Line(f"{output}.{{i}}.*", "heads.segmentation.classifier.{i}.*"),
        Line(f"{auxiliary}.{{i}}.*", "heads.segmentation.auxiliary.{i}.*"),
    ]


def _lines(task: Task, hybrid: bool) -> tuple[Line, ...]:
    def sources(i: int) -> dict[str, str]:
        source, fuse = f"pretrained.act_postprocess{i + 1}", f"scratch.refinenet{i + 1}"
        return {
            "readout": f"{source}.0.project.0.*",
            "reassemble": f"{source}.3.*",
            "resample": f"{source}.4.*",
            "project": f"scratch.layer{i + 1}_rn.*",
            "convolutions": f"{fuse}.resConfUnit{{u}}.conv{{c}}.*",
            "norms": f"{fuse}.resConfUnit{{u}}.bn{{c}}.*",
            "fuse": f"{fuse}.out_conv.*",
        }

    outputs = output_lines(task, "scratch.output_conv", "auxlayer")
    return (*backbone_lines("timm-vit", "pretrained.model."), *decoder_lines(task, sources, hybrid), *outputs)


def _describe(tensors: StateDict, task: Task) -> dict[str, Any]:
    """The config sections of a DPT on a ViT, from tensors with densevit's keys.

    Tensors do not determine the blocks of the feature maps: the ends of the depth's quarters are assumed, for the
    hybrid the last two, as in all releases.
    """
    head = part(tensors, f"heads.{task}.")
    backbone = _VIT.describe(part(tensors, "backbone."))["backbone"]
    backbone |= {"readout": "project", "position_resizing": "bilinear"}
    section: dict[str, Any] = {
        "name": "dpt" if task == "depth" else "dpt_segmentation",
        "width": len(head["decode.project.0.weight"]),
        "reassemble_channels": [head[f"decode.project.{i}.weight"].shape[1] for i in range(len(PLACES))],
    }
    if task == "depth":
        normed = "decode.fuse.32.residual2.norm1.weight" in head
        section |= {"output": "relative", "norm": "sync" if normed else "none"}
    elif "auxiliary.0.weight" not in head:
        section["auxiliary_weight"] = 0.0
    return {"backbone": backbone, "heads": {task: section}}


def _recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """Image sizes as in the project's code, `run_segmentation.py` and `run_monodepth.py`, without windows."""
    ((task, head),) = sections["heads"].items()
    if task == "segmentation":
        labels = classes.get("segmentation", ())
        recipe = f"{'cityscapes' if len(labels) == 19 else 'ade20k'}/setr_pup_vit_large"
        data = {} if len(labels) in (19, 150) else label_maps(labels)["data"]
        return recipe, {"data": {**data, "image_size": 480, "transforms": {"short_side": 480}}, "inference": {}}
    if head.get("output") == "relative":
        return "nyu/dpt_hybrid", {"data": {"image_size": 384, "transforms": {"short_side": 384}}}
    return ("kitti/dpt_hybrid" if head.get("max_depth", 10.0) > 10 else "nyu/dpt_hybrid"), {}


def whole_model(
    name: str,
    signature_keys: tuple[str, ...],
    lines: tuple[Line, ...],
    task: Task,
    class_bias: str,
    special: SpecialTensors,
    options: LayoutOptions,
    publishing: Publishing,
    backbone: Mapping[str, Any] | None = None,
) -> CheckpointLayout:
    """The layout of a DPT.

    class_bias: the key of the bias of the classifier, for segmentation. backbone: the options of all models of this
    layout that tensors do not determine.
    """

    def describe(tensors: StateDict) -> dict[str, Any]:
        sections = _describe(tensors, task)
        return {**sections, "backbone": {**sections["backbone"], **(backbone or {})}}

    return CheckpointLayout(
        name=name,
        signature_keys=signature_keys,
        lines=lines,
        describe=describe,
        classes=partial(classes_of, bias=class_bias) if task == "segmentation" else None,
        special=special,
        options=options,
        publishing=replace(publishing, mean=HALVES, std=HALVES, recipe=_recipe),
    )


def _layout(name: str, task: Task, hybrid: bool) -> CheckpointLayout:
    signature_keys = [
        "pretrained.model.blocks.{i}.attn.qkv.weight",
        "pretrained.act_postprocess4.3.weight",
        "scratch.refinenet1.out_conv.weight",
        "pretrained.model.patch_embed.backbone.stem.conv.weight" if hybrid else "pretrained.act_postprocess1.4.weight",
        "scratch.output_conv.2.weight" if task == "depth" else "scratch.output_conv.1.running_mean",
    ]
    return whole_model(
        name,
        tuple(signature_keys),
        _lines(task, hybrid),
        task,
        "scratch.output_conv.4.bias",
        SpecialTensors(
            no_effect={
                "pretrained.model.norm.*": UNUSED_NORM,
                "pretrained.model.head.*": "the class head of the ViT",
                "scratch.refinenet4.resConfUnit1.*": UNUSED_UNIT,
            },
            rearrange=added_to_tokens(
                "pretrained.model.pos_embed", ("pretrained.model.cls_token", "pretrained.model.dist_token")
            ),
        ),
        replace(_VIT.options, unsaved=("heads.depth.output",)) if task == "depth" else _VIT.options,
        Publishing(licences=LICENCES, files=FILES),
        STD if hybrid else {},
    )


def _metric(layout: CheckpointLayout, name: str, output: Mapping[str, Any]) -> CheckpointLayout:
    """The layout with depth inverted to metres; the tensors are the same as for relative depth."""
    relative: Callable[[StateDict], dict[str, Any]] = layout.describe

    def describe(tensors: StateDict) -> dict[str, Any]:
        sections = relative(tensors)
        return {**sections, "heads": {"depth": {**sections["heads"]["depth"], **output}}}

    publishing = replace(layout.publishing, models=published_models.FILES[name])
    return replace(layout, name=name, fits=by_name_only, describe=describe, options=_VIT.options, publishing=publishing)


HYBRID = _layout("dpt-hybrid", "depth", hybrid=True)
DPT = replace(
    _layout("dpt", "depth", hybrid=False),
    variants=(
        HYBRID,
        _metric(HYBRID, "dpt-hybrid-nyu", NYU),
        _metric(HYBRID, "dpt-hybrid-kitti", KITTI),
        _layout("dpt-segmentation", "segmentation", hybrid=False),
        _layout("dpt-hybrid-segmentation", "segmentation", hybrid=True),
    ),
)
