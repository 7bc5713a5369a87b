"""Weights and images of the recordings in this folder, computed from names, shapes and sizes.

NumPy's legacy generator, which they use, does not change.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = Mapping[str, Sequence[int]]

NUM_HEADS, NUM_PROPOSALS = 8, 11  # of DETR's transformers, of two-stage Deformable DETR
DETR_BATCHES = (((97, 131), (83, 150)), ((160, 136), (64, 201)), ((111, 70),))
MASK2FORMER_SIZES = ((97, 131), (64, 90))  # of the images of the batch


def random_state(shapes: Shapes) -> dict[str, Tensor]:
    """A state dict of random parameters, each determined by its name and shape."""
    state = {}
    for name, shape in shapes.items():
        x = torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)).float()
        if name.endswith("logit_scale"):
            x = math.log(10) + 0.3 * x
        elif len(shape) == 1:
            x = 0.3 * x + float("norm" in name and name.endswith("weight"))
        elif not name.endswith("bias_table"):
            x = x / math.sqrt(math.prod(shape[1:]))
        state[name] = x
    return state


def random_image(height: int, width: int) -> Tensor:
    """(1, 3, H, W)."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal((1, 3, height, width))).float()


def sampled(features: Sequence[Tensor]) -> list[Tensor]:
    """The cells of feature maps (1, C, H, W) at the top-left corners of the last map's cells."""
    return [x[:, :, :: 2**step, :: 2**step] for x, step in zip(features, range(len(features) - 1, -1, -1), strict=True)]


def random_weights(shapes: Shapes) -> dict[str, Tensor]:
    """`random_state`, with tokens and positions of variance 1, norms' scales around 1 and positive variances."""
    state = random_state(shapes)
    for name, x in state.items():
        if name.endswith("running_var"):
            state[name] = 0.5 + x.abs()
        elif "pos_embed" in name or name.endswith(("_token", "_tokens")):
            state[name] = x * math.sqrt(math.prod(x.shape[1:]))
        elif x.ndim == 1 and name.endswith("weight") and "norm" not in name:
            state[name] = 1 + x
    counts = [name.replace("running_var", "num_batches_tracked") for name in state if name.endswith("running_var")]
    return state | {name: torch.tensor(0) for name in counts}


def random_depth_anything(shapes: Shapes) -> dict[str, Tensor]:
    """`random_weights`, with a last convolution whose outputs vary and are mostly positive."""
    state = random_weights(shapes)
    for name in ("weight", "bias"):
        key = f"depth_head.scratch.output_conv2.2.{name}"
        state[key] = 3 * state[key] + (4.0 if name == "bias" else 0.0)
    return state


def random_depth_anything_3(shapes: Shapes) -> dict[str, Tensor]:
    """`random_weights`, with tokens so small that the epsilon of the last norm matters."""
    small = re.compile(r"pos_embed|cls_token|patch_embed|\.gamma")
    return {name: 0.05 * x if small.search(name) else x for name, x in random_weights(shapes).items()}


def random_dpt(shapes: Shapes) -> dict[str, Tensor]:
    """`random_weights`, for the range of trained models.

    The ResNet's filters have small variances, for which epsilon matters, and its residual branches are small; the last
    convolution of a depth head is large, with mostly positive outputs.
    """
    state = random_weights(shapes)
    for name, x in state.items():
        if ".backbone." in name and "conv" in name:
            x *= torch.logspace(-3, 0, len(x))[:, None, None, None]
        elif name.endswith("norm3.weight"):
            x *= 0.2
        elif name.startswith("scratch.output_conv.4.") and len(x) == 1:
            state[name] = 1000 * (x + float(name.endswith("bias")))
    return state


def random_google(shapes: Shapes) -> dict[str, Tensor]:
    """`random_weights`; the ResNet's filters and residual branches are small, as in `random_dpt`."""
    state = random_weights(shapes)
    for name, x in state.items():
        if name.endswith("scale"):
            state[name] = (0.2 if "gn3" in name else 1.0) * (1 + x)
        elif re.search(r"conv\w+/kernel", name):
            x *= torch.logspace(-3, 0, x.shape[3])
    return state


DETR_FACTORS = {  # of parameters, by patterns of their names
    r"layer\d\.\d+\.bn3\.weight": 0.3,
    r"input_proj\.weight|in_proj_weight": 2.0,
    r"bbox_embed\..*layers\.2\.weight": 3.0,
    r"sampling_offsets\.bias": 8.0,
    r"bbox_attention\..*weight": 4.0,
    r"mask_head\.adapter": 0.3,
}


def random_detr(shapes: Shapes) -> dict[str, Tensor]:
    """`random_weights`, with queries, points and features that differ more, and equal tensors of modules used twice.

    Deformable DETR has its prediction layers also in the decoder if it refines boxes; otherwise all layers share them.
    """
    state = {name: x for name, x in random_weights(shapes).items() if name in shapes}
    for name, x in state.items():
        for pattern, factor in DETR_FACTORS.items():
            if re.search(pattern, name):
                x *= factor
        if name.endswith(("query_embed.weight", "row_embed.weight", "col_embed.weight", "level_embed")):
            x *= 2 * math.sqrt(x.shape[1])
        elif name.endswith("in_proj_weight"):
            x[: 2 * x.shape[1]] *= 5  # queries and keys
        elif name.endswith("input_proj.weight"):
            x -= x.mean(1, keepdim=True)  # features are positive
        elif name == "mask_head.lay1.weight":
            x[:, -NUM_HEADS:] *= 1000  # attention maps sum to 1
    shared = "transformer.level_embed" in shapes and "transformer.decoder.bbox_embed.0.layers.0.weight" not in shapes
    first = re.compile(
        r"(?<=^class_embed\.)\d|(?<=^bbox_embed\.)\d" if shared else r"^transformer\.decoder\.(?=.*_embed)"
    )
    return {name: state[first.sub("0" if shared else "", name)] for name in shapes}


def detr_image(height: int, width: int) -> Tensor:
    """(3, H, W), uint8: patches and noise."""
    patches = random_image(height // 16 + 1, width // 16 + 1)[0]
    patches = patches.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width]
    return (128 + 50 * patches + 20 * random_image(height, width)[0]).clamp(0, 255).round().byte()


def key_of(sizes: Sequence[tuple[int, int]]) -> str:
    """The name of a batch: 97x131+83x150."""
    return "+".join("{}x{}".format(*size) for size in sizes)


def random_mask2former(shapes: Shapes) -> dict[str, Tensor]:
    """`random_state`, with queries that differ, offsets of some cells, positive variances and small residuals."""
    state = random_state(shapes)
    for name, x in state.items():
        if name.endswith("running_var"):
            state[name] = 0.5 + x.abs()
    scales = {"query_": 40.0, "sampling_offsets.bias": 4.0, "conv3.norm.weight": 0.3}
    return {name: x * next((by for part, by in scales.items() if part in name), 1.0) for name, x in state.items()}


def mask2former_batch() -> Tensor:
    """(2, 3, H, W), normalised images, padded with 0 to multiples of 32, as by `ImageList.from_tensors`."""
    height, width = (-(-max(size[axis] for size in MASK2FORMER_SIZES) // 32) * 32 for axis in (0, 1))
    return torch.cat([F.pad(random_image(h, w), (0, width - w, 0, height - h)) for h, w in MASK2FORMER_SIZES])
