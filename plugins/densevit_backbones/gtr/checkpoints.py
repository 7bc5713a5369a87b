"""GTR: the backbone in checkpoints of Intellindust-AI-Lab/GTR, of any task."""

from dataclasses import replace
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import CheckpointLayout, Licences, Line, OtherKeys, Publishing, SpecialTensors, StateDict
from densevit_backbones.gtr.variants import VARIANTS

# A copy that quotes the authors' licences.
_LICENCES = Licences(
    "MIT", "MIT", "Objects365, COCO", "unknown", "https://huggingface.co/LibreYOLO/LibreGTRx", "2026-11-29"
)
_SEMANTIC = replace(_LICENCES, data="Objects365, Cityscapes (non-commercial)")
_FILES = {
    **dict.fromkeys(("gtr_?_obj365.pth", "hf:Phoenix8125/GTR/obj365/*"), replace(_LICENCES, data="Objects365")),
    **dict.fromkeys(("gtrsemseg_*.pth", "hf:Phoenix8125/GTR/semseg/*"), _SEMANTIC),
    **dict.fromkeys(("gtr*_coco.pth", "hf:Phoenix8125/GTR/*"), _LICENCES),
}

_STEM, _BLOCK = "patch_embed", "blocks.{b}"
_NAMES = {
    "norm1": "norm1",
    "attn.q_proj": "attention.query",
    "attn.k_proj": "attention.key",
    "attn.v_proj": "attention.value",
    "attn.gk_proj": "attention.decay",
    "attn.g_proj": "attention.gate",
    "attn.g_norm_swish_gate": "attention.norm",
    "attn.o_proj": "attention.output",
    "norm2": "norm2",
    "mlp.gate_proj": "mlp.expand",
    "mlp.dwconv": "mlp.depthwise",
    "mlp.down_proj": "mlp.contract",
}
LINES = (
    *(Line(f"{_STEM}.convs.{i}.conv.*", f"stem.{3 * i}.*") for i in range(3)),
    *(Line(f"{_STEM}.convs.{i}.norm.*", f"stem.{3 * i + 1}.*") for i in range(3)),
    Line(f"{_STEM}.proj.*", "stem.9.*"),
    *(Line(f"{_BLOCK}.{name}.*", f"{_BLOCK}.{part}.*") for name, part in _NAMES.items()),
)


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config section of a GTR, from tensors with densevit's keys."""
    sizes = len(tensors["blocks.0.norm1.weight"]), len(tensors["blocks.0.mlp.depthwise.weight"])
    variant = next((name for name, variant_sizes in VARIANTS.items() if variant_sizes == sizes), None)
    if variant is None:
        variants = ", ".join(f"{name} {width} {hidden}" for name, (width, hidden) in VARIANTS.items())
        raise WeightsError(f"A GTR of {sizes[0]} and {sizes[1]} channels is not a known variant: {variants}.")
    return {"backbone": {"name": "gtr", "variant": variant}}


def _refuse(tensors: StateDict) -> dict[str, Any]:
    raise WeightsError("A GTR converted for deployment is recognised, but not read. Fix: use the checkpoint before it.")


GTR = CheckpointLayout(
    name="gtr-backbone",
    signature_keys=(f"{_STEM}.convs.0.conv.weight", f"{_BLOCK}.attn.gk_proj.0.weight", f"{_BLOCK}.mlp.dwconv.weight"),
    lines=LINES,
    describe=describe,
    other_keys=OtherKeys(prefixes=("backbone.backbone._model.",)),
    special=SpecialTensors(no_effect={"norm.*": "a norm after the last block, which the authors' code does not call"}),
    publishing=Publishing(licences=_LICENCES, files=_FILES),
)
DEPLOYED = CheckpointLayout(
    name="gtr-deployed",
    signature_keys=(f"{_STEM}.convs.0.conv_bn_fused.weight", f"{_BLOCK}.attn.gk_proj.0.weight"),
    lines=(),
    describe=_refuse,
    other_keys=GTR.other_keys,
    publishing=GTR.publishing,
)
