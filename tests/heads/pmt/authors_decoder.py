"""A small PMT with the authors' keys: tensors by a formula, tokens, and what the authors' decoder computes."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

C, K, Q, BLOCKS, LEVELS, GRID = 64, 3, 3, 2, 2, (2, 3)


def wave(shape: tuple[int, ...], phase: float) -> Tensor:
    """Sines of 0.37 * index^2 + phase, computed in double precision."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.37 * index**2 + phase).sin().view(shape).float()


def state(C: int = C, K: int = K, Q: int = Q, BLOCKS: int = BLOCKS, LEVELS: int = LEVELS) -> dict[str, Tensor]:
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


def outputs(
    state: dict[str, Tensor], levels: list[Tensor], rotation: tuple[Tensor, Tensor], grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Mask logits (B, Q, 4 h, 4 w) and class logits (B, Q, K + 1), without masked attention.

    levels: normalised tokens (B, N, C) of each feature, those of the grid last. rotation: cosines and sines (h * w, D)
    of the cells.
    """
    state = {key.removeprefix("network."): value for key, value in state.items()}

    def linear(x: Tensor, key: str) -> Tensor:
        return F.linear(x, state[f"{key}.weight"], state.get(f"{key}.bias"))

    def norm(x: Tensor, key: str, eps: float = 1e-5) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], eps)

    def rotated(x: Tensor) -> Tensor:
        tokens, cells = x.split([x.shape[2] - len(rotation[0]), len(rotation[0])], dim=2)
        low, high = cells.chunk(2, dim=-1)
        return torch.cat([tokens, cells * rotation[0] + torch.cat([-high, low], dim=-1) * rotation[1]], dim=2)

    laterals = []
    for i, level in enumerate(levels):
        statistics = (state[f"bn.{i}.running_mean"], state[f"bn.{i}.running_var"])
        scale = (state[f"bn.{i}.weight"], state[f"bn.{i}.bias"])
        x = F.batch_norm(level.transpose(1, 2), *statistics, *scale).transpose(1, 2)
        key = f"decoder.lateral_projections.{i}"
        x = x + linear(F.gelu(linear(x, f"{key}.0")), f"{key}.2")
        laterals.append(x * state[f"decoder.scalers.{i}"])
    queries = state["decoder.q.weight"]
    x = torch.cat([queries.expand(len(laterals[0]), -1, -1), torch.stack(laterals).sum(0)], dim=1)
    for key in (f"decoder.blocks.{i}" for i in range(len(state["decoder.attn_mask_probs"]))):
        y = norm(x, f"{key}.norm1")
        heads = [linear(y, f"{key}.attention.{name}_proj").unflatten(2, (-1, rotation[0].shape[1])) for name in "qkv"]
        query, key_, value = (head.transpose(1, 2) for head in heads)
        y = F.scaled_dot_product_attention(rotated(query), rotated(key_), value).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{key}.attention.o_proj") * state[f"{key}.layer_scale1.lambda1"]
        y = linear(F.gelu(linear(norm(x, f"{key}.norm2"), f"{key}.mlp.up_proj")), f"{key}.mlp.down_proj")
        x = x + y * state[f"{key}.layer_scale2.lambda1"]
    x = norm(x, "decoder.decoder_norm")
    embeddings, cells = x[:, : len(queries)], x[:, x.shape[1] - grid[0] * grid[1] :]
    labels = linear(embeddings, "decoder.class_head")
    for i in (0, 2, 4):
        embeddings = linear(embeddings if i == 0 else F.gelu(embeddings), f"decoder.mask_head.{i}")
    pixels = cells.transpose(1, 2).unflatten(2, grid)
    for key in (f"decoder.upscale.{i}" for i in range(2)):
        weights = (state[f"{key}.conv1.weight"], state[f"{key}.conv1.bias"])
        pixels = F.gelu(F.conv_transpose2d(pixels, *weights, stride=2))
        pixels = F.conv2d(pixels, state[f"{key}.conv2.weight"], padding=1, groups=pixels.shape[1])
        pixels = norm(pixels.permute(0, 2, 3, 1), f"{key}.norm", 1e-6).permute(0, 3, 1, 2)
    return torch.einsum("bqc,bchw->bqhw", embeddings, pixels), labels
