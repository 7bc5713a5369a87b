"""A small PMT with the authors' keys: tensors by a formula, tokens, and what the authors' code computes with them."""

import math

import torch
from torch import Tensor

C, K, Q, BLOCKS, LEVELS, GRID = 64, 3, 3, 2, 2, (2, 3)


def wave(shape: tuple[int, ...], phase: float) -> Tensor:
    """Sines of 0.37 * index^2 + phase, computed in double precision."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.37 * index**2 + phase).sin().view(shape).float()


def state() -> dict[str, Tensor]:
    """The tensors of a decoder of `BLOCKS` blocks and `LEVELS` features, of `C` channels, for `K` classes."""
    shapes: dict[str, tuple[int, ...]] = {"decoder.q.weight": (Q, C), "decoder.attn_mask_probs": (BLOCKS,)}
    linear, norms = {"decoder.class_head": (K + 1, C)}, ["decoder.decoder_norm"]
    for i in range(LEVELS):
        norms.append(f"bn.{i}")
        linear |= {f"decoder.lateral_projections.{i}.{j}": size for j, size in ((0, (C // 2, C)), (2, (C, C // 2)))}
        shapes |= {f"decoder.scalers.{i}": (C,)} | {f"bn.{i}.running_{name}": (C,) for name in ("mean", "var")}
    for block in (f"decoder.blocks.{i}" for i in range(BLOCKS)):
        norms += [f"{block}.norm1", f"{block}.norm2"]
        shapes |= {f"{block}.layer_scale{i}.lambda1": (C,) for i in (1, 2)}
        names = (*(f"attention.{name}_proj" for name in "qkvo"), "mlp.up_proj", "mlp.down_proj")
        linear |= {f"{block}.{name}": (C, C) for name in names}
    linear |= {f"decoder.mask_head.{i}": (C, C) for i in (0, 2, 4)}
    for i in range(2):
        shapes |= {f"decoder.upscale.{i}.{name}": (C, *size) for name, size in
                   (("conv1.weight", (C, 2, 2)), ("conv1.bias", ()), ("conv2.weight", (1, 3, 3)))}  # fmt: skip
        norms.append(f"decoder.upscale.{i}.norm")
    shapes |= {f"{name}.weight": size for name, size in linear.items()}
    shapes |= {f"{name}.bias": size[:1] for name, size in linear.items() if not name.endswith("k_proj")}
    shapes |= {f"{name}.{kind}": (C,) for name in norms for kind in ("weight", "bias")}
    return {f"network.{key}": _tensor(key, shapes[key], i) for i, key in enumerate(sorted(shapes))}


def _tensor(key: str, shape: tuple[int, ...], phase: int) -> Tensor:
    x = wave(shape, phase)
    if len(shape) > 1 and not key.endswith("q.weight"):
        return x * (4 / math.prod(shape[1:])) ** 0.5
    return 1 + 0.5 * x if key.endswith(("weight", "_var", "lambda1")) or "scalers" in key else 0.1 * x


def tokens() -> list[Tensor]:
    """The normalised tokens of each feature, of two images: two that are no cells, then those of the grid."""
    return [wave((2, 2 + GRID[0] * GRID[1], C), 0.3 + i) for i in range(LEVELS)]
