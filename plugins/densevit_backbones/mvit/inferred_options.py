"""Infers the options of an MViT from its tensors."""

from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import StateDict
from densevit.layouts import count
from densevit_backbones.mvit.variants import VARIANTS


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config section of an MViT, from tensors with densevit's keys."""
    version = 1 if "positions.cells" in tensors else 2
    width = tensors["patch_embed.weight"].shape[0]
    blocks = tuple(count(tensors, rf"stages\.{i}\.(\d+)\.norm1\.weight") for i in range(4))
    variants = VARIANTS[version]
    variant = next((name for name, sizes in variants.items() if (sizes.width, sizes.blocks) == (width, blocks)), None)
    if variant is None:
        listed = ", ".join(f"{name} {(sizes.width, sizes.blocks)}" for name, sizes in variants.items())
        raise WeightsError(
            f"An MViT of version {version}, {width} channels and {blocks} blocks is not a known variant: {listed}."
        )
    if version == 1:
        side = tensors["positions.cells"].shape[-1]
    else:
        side = (len(tensors["stages.0.0.attention.relative_positions.rows"]) + 1) // 2
    section = {"name": "mvit", "variant": variant, "version": version, "image_size": 4 * side}
    return {"backbone": section | {"class_token": "class_token" in tensors}}
