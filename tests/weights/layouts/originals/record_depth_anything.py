"""Records what the authors' code of Depth Anything computes, for `test_vit_originals.py`.

    python -m tests.weights.layouts.originals.record_depth_anything ORIGINAL CHECKOUT

ORIGINAL: a key of ORIGINALS. CHECKOUT: a clone of DepthAnything/Depth-Anything-V2; V1's code has the same model, whose
maps are those of the last four blocks. Writes ORIGINAL.safetensors beside this file: every fifth pixel of the outputs,
named by the size of the image; the names and shapes of the tensors; the commit. Images are those of `record_swin.py`,
weights those of `random_depth_anything`.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.originals.record_vit import commit_of, random_weights, shapes_of, write

SIZES = ((70, 70), (98, 70), (56, 154), (42, 126))  # the first is the grid of the position table
SMALL: dict[str, Any] = {"img_size": 70, "embed_dim": 32, "depth": 4, "num_heads": 2}
ORIGINALS: dict[str, tuple[str, tuple[int, ...], float | None]] = {  # folder, blocks, max_depth
    "depth-anything-v2": (".", (0, 1, 2, 3), None),
    "depth-anything-v2-indoor": ("metric_depth", (0, 1, 2, 3), 20.0),
    "depth-anything-v2-outdoor": ("metric_depth", (0, 1, 2, 3), 80.0),
}


def random_depth_anything(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """`random_weights`, with a last convolution whose outputs vary and are mostly positive."""
    state = random_weights(shapes)
    for name in ("weight", "bias"):
        key = f"depth_head.scratch.output_conv2.2.{name}"
        state[key] = 3 * state[key] + (4.0 if name == "bias" else 0.0)
    return state


@torch.no_grad()
def record(name: str, checkout: Path) -> None:
    folder, blocks, max_depth = ORIGINALS[name]
    sys.path.insert(0, str(checkout / folder))
    from depth_anything_v2 import dinov2, dpt

    encoder = partial(
        dinov2.DinoVisionTransformer,
        patch_size=14,
        init_values=1.0,
        block_chunks=0,
        interpolate_antialias=False,
        interpolate_offset=0.1,
        block_fn=partial(dinov2.Block, attn_class=dinov2.MemEffAttention),
        **SMALL,
    )
    vars(dpt)["DINOv2"] = lambda model_name: encoder()
    metres = {} if max_depth is None else {"max_depth": max_depth}
    model = dpt.DepthAnythingV2("vits", features=16, out_channels=[8, 16, 24, 40], **metres).eval()
    model.intermediate_layer_idx["vits"] = [*blocks]
    model.load_state_dict(random_depth_anything(shapes_of(model)))
    maps = {"{}x{}".format(*size): model(random_image(*size))[..., ::5, ::5] for size in SIZES}
    for key, x in maps.items():
        print(key, x.mean().item(), x.std().item(), x.min().item(), x.max().item())
    write(name, "DepthAnything/Depth-Anything-V2", commit_of(checkout), shapes_of(model), maps)


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
