"""facebookresearch/dinov2 (Oquab et al. 2024), also with registers (Darcet et al. 2024): mostly timm's keys."""

import re
from collections.abc import Mapping
from functools import partial

from torch import Tensor

from densevit.interfaces import CheckpointLayout, Line, Publishing, Rearrangement, SpecialTensors, StateDict
from densevit.layouts import TOKENS, added_to_tokens
from densevit_backbones import licences
from densevit_backbones.vit.inferred_options import OPTIONS, describe_resized
from densevit_backbones.vit.timm_checkpoints import VIT


def with_gated_export(positions: Rearrangement, gated: Mapping[str, tuple[str, ...]]) -> Rearrangement:
    """Extends `positions`: its inverse also renames the layers of gated MLPs.

    gated: the names of a gated MLP's layers by the name of the corresponding plain layer, `fc1` or `fc2`.
    """

    def back(state: StateDict) -> StateDict:
        state, written = positions.inverse(state), dict[str, Tensor]()
        for key, tensor in state.items():
            match = re.fullmatch(r"(.*\.mlp\.)(fc[12])(\.\w+)", key)
            if match is None or not _is_gated(state, match[1]):
                written[key] = tensor
                continue
            names = gated[match[2]]
            for name, part in zip(names, tensor.chunk(len(names)), strict=True):
                written[match[1] + name + match[3]] = part
        return written

    return Rearrangement(positions.forward, back)


def _is_gated(state: StateDict, mlp: str) -> bool:
    """Whether the first layer has twice as many outputs as the second has inputs."""
    return len(state[f"{mlp}fc1.weight"]) == 2 * state[f"{mlp}fc2.weight"].shape[1]


_LINES = (
    Line("register_tokens", "register_tokens", TOKENS),
    *VIT.lines,
    Line("blocks.{i}.mlp.w12.*", "blocks.{i}.mlp.expand.*"),
    Line("blocks.{i}.mlp.w3.*", "blocks.{i}.mlp.contract.*"),
)


_POSITIONS = with_gated_export(added_to_tokens("pos_embed", ("cls_token",)), {"fc1": ("w12",), "fc2": ("w3",)})

DINOV2 = CheckpointLayout(
    name="dinov2",
    signature_keys=(
        "cls_token",
        "pos_embed",
        "mask_token",
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.ls1.gamma",
    ),
    lines=_LINES,
    describe=partial(describe_resized, resizing="bicubic_offset"),  # as `dinov2/hub/backbones.py`
    special=SpecialTensors(no_effect={"mask_token": "the mask token of pre-training"}, rearrange=_POSITIONS),
    options=OPTIONS,
    publishing=Publishing(licences=licences.DINOV2, files={"dinov2_vit*.pth": licences.DINOV2}),
)
