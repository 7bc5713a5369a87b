"""MiT: NVIDIA's release (NVlabs/SegFormer) and transformers' Segformer, trained for classification."""

from collections.abc import Mapping, Sequence
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
from densevit.layouts import count
from densevit_backbones.mit.published_models import MODELS
from densevit_backbones.mit.variants import HEADS, REDUCTIONS, VARIANTS

_LICENCES = Licences(
    "NVIDIA's, non-commercial",
    "NVIDIA's, non-commercial",
    "ImageNet, ADE20K or Cityscapes",
    "none",
    "https://github.com/NVlabs/SegFormer/blob/65fa8cf/README.md",
    "2026-11-29",
)
_FILES = dict.fromkeys(("mit_b?.pth", "segformer.b*.pth", "hf:nvidia/mit-*", "hf:nvidia/segformer-*"), _LICENCES)
PROJECT_DEFAULTS = ("norm_eps",)
_BLOCK, _TARGET_BLOCK = "encoder.block.{s}.{b}", "stages.{s}.{b}"


def describe(tensors: StateDict, norm_eps: float) -> dict[str, Any]:
    """The config section of a MiT, from tensors with densevit's keys.

    norm_eps: epsilon of the layer norms in the project's code.
    """
    widths = tuple(len(tensors[f"feature_norms.{i}.weight"]) for i in range(4))
    blocks = tuple(count(tensors, rf"stages\.{i}\.(\d+)\.norm1\.weight") for i in range(4))
    variant = next((name for name, sizes in VARIANTS.items() if sizes == (widths, blocks)), None)
    if variant is None:
        variants = ", ".join(f"{name} {sizes.widths} {sizes.blocks}" for name, sizes in VARIANTS.items())
        raise WeightsError(f"A MiT of {widths} channels and {blocks} blocks is not a known variant: {variants}.")
    return {"backbone": {"name": "mit", "variant": variant, "norm_eps": norm_eps}}


def _nvidia() -> tuple[Line, ...]:
    """Maps the keys of NVIDIA's checkpoints, which number stages from 1."""
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.q": "attention.query",
        "attn.kv": "attention.key_value",
        "attn.proj": "attention.output",
        "attn.sr": "attention.reduction",
        "attn.norm": "attention.reduction_norm",
        "mlp.fc1": "mlp.expand",
        "mlp.dwconv.dwconv": "mlp.depthwise",
        "mlp.fc2": "mlp.contract",
    }
    return tuple(
        line
        for i in range(4)
        for line in (
            Line(f"patch_embed{i + 1}.proj.*", f"patches.{i}.projection.*"),
            Line(f"patch_embed{i + 1}.norm.*", f"patches.{i}.norm.*"),
            *(Line(f"block{i + 1}.{{b}}.{name}.*", f"stages.{i}.{{b}}.{part}.*") for name, part in names.items()),
            Line(f"norm{i + 1}.*", f"feature_norms.{i}.*"),
        )
    )


_NAMES = {  # parts of a block in transformers' files: the key in a version 5 model, and the key here
    "layer_norm_1": ("layernorm_before", "norm1"),
    "layer_norm_2": ("layernorm_after", "norm2"),
    "attention.self.query": ("attention.q_proj", "attention.query"),
    "attention.output.dense": ("attention.o_proj", "attention.output"),
    "attention.self.sr": ("attention.sequence_reduction.sequence_reduction", "attention.reduction"),
    "attention.self.layer_norm": ("attention.sequence_reduction.layer_norm", "attention.reduction_norm"),
    "mlp.dense1": ("mlp.fc1", "mlp.expand"),
    "mlp.dwconv.dwconv": ("mlp.dwconv.dwconv", "mlp.depthwise"),
    "mlp.dense2": ("mlp.fc2", "mlp.contract"),
}
_PAIR = {"attention.self.key": "attention.k_proj", "attention.self.value": "attention.v_proj"}
_TRANSFORMERS = (
    Line("encoder.patch_embeddings.{s}.proj.*", "patches.{s}.projection.*"),
    Line("encoder.patch_embeddings.{s}.layer_norm.*", "patches.{s}.norm.*"),
    *(Line(f"{_BLOCK}.{name}.*", f"{_TARGET_BLOCK}.{target}.*") for name, (_, target) in _NAMES.items()),
    *(Line(f"{_BLOCK}.{name}.*", f"{_TARGET_BLOCK}.attention.key_value.*[{i}/2]") for i, name in enumerate(_PAIR)),
    Line("encoder.layer_norm.{s}.*", "feature_norms.{s}.*"),
)
_MEMORY_BLOCKS = {name: memory for name, (memory, _) in _NAMES.items()} | _PAIR
_MEMORY = (
    ("stages.{s}.patch_embeddings.*", "encoder.patch_embeddings.{s}.*"),
    *((f"stages.{{s}}.blocks.{{b}}.{memory}.*", f"{_BLOCK}.{name}.*") for name, memory in _MEMORY_BLOCKS.items()),
    ("stages.{s}.layer_norm.*", "encoder.layer_norm.{s}.*"),
)


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    widths, blocks = VARIANTS[sections["backbone"]["variant"]]
    config = {
        "model_type": "segformer",
        "architectures": ["SegformerModel"],
        "num_encoder_blocks": 4,
        "depths": [*blocks],
        "hidden_sizes": [*widths],
        "num_attention_heads": [*HEADS],
        "sr_ratios": [*REDUCTIONS],
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "mlp_ratios": [4, 4, 4, 4],
        "hidden_act": "gelu",
    }
    return {"config.json": config}


IMPLIED = {
    "hidden_act": ("gelu",),
    "num_attention_heads": ([*HEADS],),
    "sr_ratios": ([*REDUCTIONS],),
    "mlp_ratios": ([4, 4, 4, 4],),
    "strides": ([4, 2, 2, 2],),
    "reshape_last_stage": (True,),
}

NVIDIA = CheckpointLayout(
    name="nvidia-mit",
    signature_keys=("patch_embed1.proj.weight", "block1.{b}.attn.sr.weight", "block4.{b}.mlp.dwconv.dwconv.weight"),
    lines=_nvidia(),
    describe=partial(describe, norm_eps=1e-6),
    other_keys=OtherKeys(prefixes=("backbone.",)),
    special=SpecialTensors(no_effect={"head.*": "the classification head", "decode_head.*": "the segmentation head"}),
    options=LayoutOptions(project_defaults=PROJECT_DEFAULTS),
    publishing=Publishing(licences=_LICENCES, files=_FILES),
)
TRANSFORMERS = CheckpointLayout(
    name="transformers-mit",
    signature_keys=(
        "encoder.patch_embeddings.0.proj.weight",
        f"{_BLOCK}.attention.self.sr.weight",
        "encoder.layer_norm.3.bias",
    ),
    lines=_TRANSFORMERS,
    describe=partial(describe, norm_eps=1e-5),
    other_keys=OtherKeys(prefixes=("segformer.",), spellings=_MEMORY),
    special=SpecialTensors(
        no_effect={"classifier.*": "the classification head", "decode_head.*": "the segmentation head"}
    ),
    options=LayoutOptions(project_defaults=PROJECT_DEFAULTS, implied=IMPLIED),
    publishing=Publishing(licences=_LICENCES, files=_FILES, models=MODELS, config_files=_config),
)
