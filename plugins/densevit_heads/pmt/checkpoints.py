"""PMT (Cavagnero et al. 2026): the authors' decoders, published without the DINOv3 that they were trained on.

The decoder is loaded into a head, `heads.NAME.weights`, and DINOv3 into the backbone, `backbone.weights`. Tensors do
not determine the task, which is chosen as for EoMT: 80 classes are COCO's objects, 100 queries semantic segmentation.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from densevit.interfaces import (
    CheckpointLayout,
    LayoutOptions,
    Licences,
    Line,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layouts import count
from densevit.set_prediction.mask_segments import Task
from densevit_heads.parts.mask_checkpoints import KEYS, as_authors, task_classes, task_of
from densevit_heads.pmt.published_models import MODELS

NAMES: dict[Task, str] = {"panoptic": "pmt", "instance": "pmt_instance", "semantic": "pmt_semantic"}
_LABEL, _QUERIES = "network.decoder.class_head.bias", "network.decoder.q.weight"
_VARIANTS = {384: "small", 768: "base", 1024: "large"}
# The Hub's pages name no licence of the weights.
_LICENCES = Licences(
    "MIT",
    data="COCO or ADE20K",
    teacher="none",
    source="https://github.com/tue-mps/pmt/blob/54d73c9/LICENSE",
    date="2026-11-30",
)


def _lines(head: str) -> tuple[Line, ...]:
    decoder, block = "network.decoder", "network.decoder.blocks.{i}"
    lateral, key = "network.decoder.lateral_projections.{i}", f"{head}.blocks.{{i}}"
    parts = ("query", "key", "value", "output")
    return (
        Line("network.bn.{i}.*", f"{head}.laterals.{{i}}.norm.*"),
        Line(f"{lateral}.0.*", f"{head}.laterals.{{i}}.mlp.expand.*"),
        Line(f"{lateral}.2.*", f"{head}.laterals.{{i}}.mlp.contract.*"),
        Line(f"{decoder}.scalers.{{i}}", f"{head}.laterals.{{i}}.scale"),
        Line(f"{decoder}.q.weight", f"{head}.queries.weight"),
        *(Line(f"{block}.norm{i}.*", f"{key}.norm{i}.*") for i in (1, 2)),
        *(Line(f"{block}.attention.{name[0]}_proj.*", f"{key}.attention.{name}.*") for name in parts),
        *(Line(f"{block}.layer_scale{i}.lambda1", f"{key}.scale{i}") for i in (1, 2)),
        Line(f"{block}.mlp.up_proj.*", f"{key}.mlp.expand.*"),
        Line(f"{block}.mlp.down_proj.*", f"{key}.mlp.contract.*"),
        Line(f"{decoder}.decoder_norm.*", f"{head}.norm.*"),
        Line(f"{decoder}.upscale.{{i}}.conv1.*", f"{head}.upscale.{{i}}.0.*"),
        Line(f"{decoder}.upscale.{{i}}.conv2.*", f"{head}.upscale.{{i}}.2.*"),
        Line(f"{decoder}.upscale.{{i}}.norm.*", f"{head}.upscale.{{i}}.3.*"),
        Line(f"{decoder}.mask_head.*", f"{head}.mask_head.*"),
        Line(f"{decoder}.class_head.*", f"{head}.label_head.*"),
    )


def _of(task: Task) -> CheckpointLayout:
    """The layout of the decoders for a task."""
    key = KEYS[task]
    head = f"heads.{key}"

    def describe(tensors: StateDict) -> dict[str, Any]:
        """The config sections of the decoder on the DINOv3 of its width, from tensors with densevit's keys."""
        queries, width = tensors[f"{head}.queries.weight"].shape
        backbone = {"name": "vit", "variant": _VARIANTS.get(width, "base"), "positions": "rotary", "registers": 4}
        blocks = count(tensors, rf"{head}\.blocks\.(\d+)\.norm1\.weight")
        section = {"name": NAMES[task], "num_queries": queries, "num_blocks": blocks}
        dinov3 = {"layer_scale": 1e-5, "key_bias": False, "norm_eps": 1e-5}
        return {"backbone": backbone | dinov3 | {"fixed_size": True}, "heads": {key: section}}

    return CheckpointLayout(
        name="pmt" if task == "panoptic" else f"pmt-{task}",
        signature_keys=(
            _QUERIES,
            "network.bn.0.running_mean",
            "network.decoder.scalers.0",
            "network.decoder.blocks.0.attention.q_proj.weight",
        ),
        lines=_lines(head),
        describe=describe,
        fits=lambda state, metadata: task == task_of(len(state[_LABEL]) - 1, len(state[_QUERIES])),
        classes=partial(task_classes, task=task, bias=_LABEL),
        special=SpecialTensors(
            no_effect={
                "criterion.empty_weight": "the weights of classes in the loss",
                "network.decoder.attn_mask_probs": "the state of mask annealing in training",
                "network.encoder.pixel_mean": "the normalisation of pixels",
                "network.encoder.pixel_std": "the normalisation of pixels",
            }
        ),
        options=LayoutOptions(project_defaults=("fixed_size",)),
        publishing=Publishing(
            licences=_LICENCES,
            files={"hf:tue-mps/*pmt*": _LICENCES},
            models={name: model for name, model in MODELS.items() if model.task == key},
            black_padding=True,
            as_authors=as_authors(task),
        ),
    )


PMT = replace(_of("panoptic"), variants=(_of("instance"), _of("semantic")))
