"""EoMT (Kerssies et al. 2025): complete models on DINOv2 and DINOv3.

Models on DINOv2 with the keys of transformers or tue-mps/eomt, models on DINOv3 with transformers' keys only.

Tensors do not determine the task. Models with 80 classes (COCO's objects) are read as instance segmentation, models
with 100 queries as semantic segmentation, all others as panoptic segmentation, as published. For other models, name the
layout with `-instance` or `-semantic`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from densevit.errors import WeightsError
from densevit.interfaces import (
    Change,
    CheckpointLayout,
    Class,
    LayoutOptions,
    Licences,
    Line,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import GRID, TOKENS, backbone_lines, count, find, part
from densevit.set_prediction.mask_segments import Task
from densevit_heads.eomt import published_models
from densevit_heads.parts.mask_checkpoints import KEYS, as_authors, task_classes, task_of

NAMES: dict[Task, str] = {"panoptic": "eomt", "instance": "eomt_instance", "semantic": "eomt_semantic"}
_NUM_BLOCKS = {"small": 3, "base": 3, "giant": 5}  # of the published models; 4 in "large"
# The Hub's pages name no licence.
_LICENCES = Licences(
    "MIT",
    data="LVD-142M; COCO, ADE20K or Cityscapes",
    teacher="none",
    source="https://github.com/tue-mps/eomt/blob/7bd19dd/LICENSE",
    date="2026-11-29",
)
_FILES = {"hf:tue-mps/*eomt*": _LICENCES}
_VIT, _DINOV3 = "timm-vit", "transformers-dinov3"
_NO_EFFECT = {"criterion.empty_weight": "the weights of classes in the loss"}
_EMBEDDING = Change(lambda table: _grid(table), lambda table: table.flatten(0, 1))  # (H * W, C) <-> (H, W, C)


def _grid(table: Tensor) -> Tensor:
    side = math.isqrt(len(table))
    return table.unflatten(0, (side, side))


def _head_lines(
    head: str, queries: str, label: str, masks: tuple[str, str, str], upscale: str, norm: str
) -> tuple[Line, ...]:
    """Maps the keys of a head.

    masks: the linear layers of the mask head. upscale: the prefix of upscaling block `{i}`. norm: its layer norm.
    """
    return (
        Line(queries, f"{head}.queries.weight"),
        Line(f"{label}.*", f"{head}.label_head.*"),
        *(Line(f"{name}.*", f"{head}.mask_head.{2 * i}.*") for i, name in enumerate(masks)),
        Line(f"{upscale}.conv1.*", f"{head}.upscale.{{i}}.0.*"),
        Line(f"{upscale}.conv2.*", f"{head}.upscale.{{i}}.2.*"),
        Line(f"{upscale}.{norm}.*", f"{head}.upscale.{{i}}.3.*"),
    )


def _transformers_head(head: str) -> tuple[Line, ...]:
    masks = ("mask_head.fc1", "mask_head.fc2", "mask_head.fc3")
    return _head_lines(head, "query.weight", "class_predictor", masks, "upscale_block.block.{i}", "layernorm2d")


def _authors_head(head: str) -> tuple[Line, ...]:
    masks = ("network.mask_head.0", "network.mask_head.2", "network.mask_head.4")
    return _head_lines(head, "network.q.weight", "network.class_head", masks, "network.upscale.{i}", "norm")


def _transformers_dinov2() -> tuple[Line, ...]:
    layer, names = "layers.{i}", ("q_proj", "k_proj", "v_proj")
    return (
        Line("embeddings.cls_token", "backbone.class_token", TOKENS),
        Line("embeddings.register_tokens", "backbone.register_tokens", TOKENS),
        Line("embeddings.position_embeddings.weight", "backbone.position_table", _EMBEDDING),
        Line("embeddings.patch_embeddings.projection.*", "backbone.stem.projection.*"),
        Line(f"{layer}.norm1.*", "backbone.blocks.{i}.norm1.*"),
        *(
            Line(f"{layer}.attention.{name}.*", f"backbone.blocks.{{i}}.attention.qkv.*[{i}/3]")
            for i, name in enumerate(names)
        ),
        Line(f"{layer}.attention.out_proj.*", "backbone.blocks.{i}.attention.output.*"),
        Line(f"{layer}.layer_scale1.lambda1", "backbone.blocks.{i}.scale1.scale"),
        Line(f"{layer}.norm2.*", "backbone.blocks.{i}.norm2.*"),
        Line(f"{layer}.mlp.fc1.*", "backbone.blocks.{i}.mlp.expand.*"),
        Line(f"{layer}.mlp.fc2.*", "backbone.blocks.{i}.mlp.contract.*"),
        Line(f"{layer}.mlp.gate_proj.*", "backbone.blocks.{i}.mlp.expand.*[0/2]"),
        Line(f"{layer}.mlp.up_proj.*", "backbone.blocks.{i}.mlp.expand.*[1/2]"),
        Line(f"{layer}.mlp.down_proj.*", "backbone.blocks.{i}.mlp.contract.*"),
        Line(f"{layer}.mlp.weights_in.*", "backbone.blocks.{i}.mlp.expand.*"),
        Line(f"{layer}.mlp.weights_out.*", "backbone.blocks.{i}.mlp.contract.*"),
        Line(f"{layer}.layer_scale2.lambda1", "backbone.blocks.{i}.scale2.scale"),
        Line("layernorm.*", "backbone.norm.*"),
    )


def _transformers_dinov3() -> tuple[Line, ...]:
    """Maps the keys of transformers' DINOv3ViT, with EoMT's names of blocks and of the norm."""
    names = {"layer": "layers", "norm": "layernorm"}
    return tuple(
        line._replace(foreign_key=re.sub(r"^(layer|norm)(?=\.)", lambda name: names[name[0]], line.foreign_key))
        for line in backbone_lines(_DINOV3, "")
    )


def _authors_dinov2() -> tuple[Line, ...]:
    """timm's ViT in the authors' LightningModule. Positions are for cells only, as in timm's DINOv2 with registers."""
    source, block = "network.encoder.backbone", "network.encoder.backbone.blocks.{i}"
    return (
        Line(f"{source}.cls_token", "backbone.class_token", TOKENS),
        Line(f"{source}.reg_token", "backbone.register_tokens", TOKENS),
        Line(f"{source}.pos_embed", "backbone.position_table", GRID),
        Line(f"{source}.patch_embed.proj.*", "backbone.stem.projection.*"),
        Line(f"{block}.norm1.*", "backbone.blocks.{i}.norm1.*"),
        Line(f"{block}.attn.qkv.*", "backbone.blocks.{i}.attention.qkv.*"),
        Line(f"{block}.attn.proj.*", "backbone.blocks.{i}.attention.output.*"),
        Line(f"{block}.ls1.gamma", "backbone.blocks.{i}.scale1.scale"),
        Line(f"{block}.norm2.*", "backbone.blocks.{i}.norm2.*"),
        Line(f"{block}.mlp.fc1.*", "backbone.blocks.{i}.mlp.expand.*"),
        Line(f"{block}.mlp.fc2.*", "backbone.blocks.{i}.mlp.contract.*"),
        Line(f"{block}.ls2.gamma", "backbone.blocks.{i}.scale2.scale"),
        Line(f"{source}.norm.*", "backbone.norm.*"),
    )


def _describe(tensors: StateDict, task: Task, dinov3: bool) -> dict[str, Any]:
    """The config sections of an EoMT, from tensors with densevit's keys."""
    backbone = find(_DINOV3 if dinov3 else _VIT).describe(part(tensors, "backbone."))["backbone"]
    head = f"heads.{KEYS[task]}"
    section = {
        "name": NAMES[task],
        "num_queries": len(tensors[f"{head}.queries.weight"]),
        "num_blocks": min(
            _NUM_BLOCKS.get(backbone["variant"], 4), count(tensors, r"backbone\.blocks\.(\d+)\.norm1\.weight")
        ),
    }
    return {"backbone": backbone | {"fixed_size": True}, "heads": {KEYS[task]: section}}


def _saved(state: StateDict, metadata: Mapping[str, Any], task: Task, dinov3: bool) -> dict[str, Any]:
    """The image size and number of blocks, from config.json, or the blocks from the annealed probabilities, one per
    block."""
    config = metadata.get("config", {})
    saved: dict[str, Any] = {}
    for name in ("transformers-vit", *((_DINOV3,) if dinov3 else ())):
        saved |= find(name).options.saved(state, metadata)
    probabilities = next((state[key] for key in state if key.endswith("attn_mask_probs")), None)
    blocks = config.get("num_blocks", None if probabilities is None else len(probabilities))
    if blocks is not None:
        saved[f"heads.{KEYS[task]}.num_blocks"] = int(blocks)
    if dinov3 and "image_size" in config:
        size = config["image_size"]
        sides = {int(side) for side in (size if isinstance(size, Sequence) else (size,))}
        if len(sides) != 1:
            raise WeightsError(f"config.json has image_size {size}; an EoMT of square images is expected.")
        saved["backbone.image_size"] = sides.pop()
    return saved


def _recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training and evaluation on the data set with this number of classes."""
    backbone, [(key, head)] = sections["backbone"], sections["heads"].items()
    variant = "base" if backbone["variant"] in ("small", "base") else "large"
    num_classes = len(classes.get(key, ()))
    side = backbone.get("image_size")
    size = {} if side is None else {"data": {"image_size": side}}
    if head["name"] == NAMES["instance"]:
        return "coco/eomt_large_instance", size
    if head["name"] == NAMES["semantic"]:
        windows = {} if side is None else {"inference": {"window": side, "stride": side}}
        if num_classes not in (19, 150):
            listed = [{"name": c.name, "id": c.file_id, "color": [*c.color]} for c in classes.get(key, ())]
            return "ade20k/eomt_large", {"data": {"name": "label_maps", "classes": listed}, **windows}
        if num_classes == 19:
            return "ade20k/eomt_large", {"data": "configs/data/cityscapes.yaml", **windows}
        return "ade20k/eomt_large", {
            "data": size["data"] | {"transforms": {"short_side": side}},
            **windows,
        } if size else {}
    if num_classes == 150:
        return "coco/eomt_large_panoptic", {"data": "configs/data/ade20k_panoptic.yaml"}
    return f"coco/eomt_{variant}_panoptic", size


def _with_tasks(
    layout: CheckpointLayout, head: Callable[[str], tuple[Line, ...]], label: str, queries: str, dinov3: bool
) -> CheckpointLayout:
    """The layout of panoptic segmentation, with the other tasks as variants. label: key of the class logits' bias.

    layout: the backbone's layout. queries: key of the queries.
    """

    def of(task: Task) -> CheckpointLayout:
        key = KEYS[task]
        backbone = find(_DINOV3 if dinov3 else _VIT).options
        unsaved = ("backbone.image_size", *backbone.unsaved) if dinov3 else ()
        return replace(
            layout,
            name=layout.name if task == "panoptic" else f"{layout.name}-{task}",
            lines=(*layout.lines, *head(f"heads.{key}")),
            describe=lambda tensors: _describe(tensors, task, dinov3),
            fits=lambda state, _: task == task_of(len(state[label]) - 1, len(state[queries])),
            classes=partial(task_classes, task=task, bias=label),
            options=LayoutOptions(
                unsaved=(f"heads.{key}.num_blocks", *unsaved),
                saved=partial(_saved, task=task, dinov3=dinov3),
                implied=layout.options.implied,
                runtime=backbone.runtime,
                project_defaults=(*backbone.project_defaults, "fixed_size"),
            ),
            publishing=replace(
                layout.publishing,
                recipe=_recipe,
                black_padding=True,
                as_authors=as_authors(task),
                models={name: model for name, model in layout.publishing.models.items() if model.task == key},
            ),
        )

    return replace(of("panoptic"), variants=(of("instance"), of("semantic")))


_LICENCES_DINOV3 = replace(find(_DINOV3).publishing.files["dinov3_*.pth"], data="LVD-1689M; COCO or ADE20K")
_PUBLISHING_DINOV3 = Publishing(licences=_LICENCES_DINOV3, files={"hf:tue-mps/*dinov3": _LICENCES_DINOV3, **_FILES})
_TRANSFORMERS_SIGNATURE_KEYS = ("query.weight", "upscale_block.block.0.conv1.weight", "mask_head.fc3.weight")
_TRANSFORMERS_NO_EFFECT = {**_NO_EFFECT, "attn_mask_probs": "the state of mask annealing in training"}

TRANSFORMERS = _with_tasks(
    CheckpointLayout(
        name="transformers-eomt",
        signature_keys=(
            *_TRANSFORMERS_SIGNATURE_KEYS,
            "embeddings.position_embeddings.weight",
            "layers.0.attention.out_proj.weight",
        ),
        lines=_transformers_dinov2(),
        describe=lambda tensors: {},
        special=SpecialTensors(no_effect=_TRANSFORMERS_NO_EFFECT),
        options=LayoutOptions(implied={"hidden_act": ("gelu",), "layer_norm_eps": (1e-6,)}),
        publishing=Publishing(licences=_LICENCES, files=_FILES, models=published_models.EOMT),
    ),
    _transformers_head,
    "class_predictor.bias",
    "query.weight",
    dinov3=False,
)
TRANSFORMERS_DINOV3 = _with_tasks(
    CheckpointLayout(
        name="transformers-eomt-dinov3",
        signature_keys=(
            *_TRANSFORMERS_SIGNATURE_KEYS,
            "embeddings.patch_embeddings.weight",
            "layers.0.attention.o_proj.weight",
        ),
        lines=_transformers_dinov3(),
        describe=lambda tensors: {},
        special=SpecialTensors(
            no_effect={**_TRANSFORMERS_NO_EFFECT, "embeddings.mask_token": "the mask token of pre-training"}
        ),
        options=LayoutOptions(implied={"hidden_act": ("gelu",), "use_gated_mlp": (False,), "key_bias": (False,)}),
        publishing=_PUBLISHING_DINOV3,
    ),
    _transformers_head,
    "class_predictor.bias",
    "query.weight",
    dinov3=True,
)
AUTHORS = _with_tasks(
    CheckpointLayout(
        name="eomt",
        signature_keys=(
            "network.q.weight",
            "network.upscale.0.conv1.weight",
            "network.encoder.backbone.pos_embed",
            "network.encoder.backbone.blocks.0.attn.qkv.weight",
        ),
        lines=_authors_dinov2(),
        describe=lambda tensors: {},
        special=SpecialTensors(
            no_effect={
                **_NO_EFFECT,
                "network.attn_mask_probs": "the state of mask annealing in training",
                "network.encoder.pixel_mean": "the normalisation of pixels",
                "network.encoder.pixel_std": "the normalisation of pixels",
            }
        ),
        publishing=Publishing(licences=_LICENCES, files=_FILES),
    ),
    _authors_head,
    "network.class_head.bias",
    "network.q.weight",
    dinov3=False,
)


def _refuse(tensors: StateDict) -> dict[str, Any]:
    raise WeightsError(
        "The authors' pytorch_model.bin of EoMT on DINOv3 has differences from DINOv3's weights, not weights. Fix: add "
        "DINOv3's, as transformers' EomtDinov3ForUniversalSegmentation is converted, and load what it saves."
    )


DIFFERENCES = CheckpointLayout(
    name="eomt-dinov3-differences",
    signature_keys=(
        "network.q.weight",
        "network.upscale.0.conv1.weight",
        "network.encoder.backbone.patch_embed.cls_token",
        "network.encoder.backbone.blocks.0.attention.q_proj.weight",
    ),
    lines=_authors_head(f"heads.{KEYS['panoptic']}"),
    describe=_refuse,
    publishing=replace(_PUBLISHING_DINOV3, models=published_models.DIFFERENCES),
)
