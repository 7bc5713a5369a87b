"""Records what the authors' code of DPT computes, for `test_vit_originals.py`.

    python -m tests.weights.layouts.originals.record_dpt ORIGINAL CHECKOUT

ORIGINAL: a key of ORIGINALS. CHECKOUT: a clone of isl-org/DPT, with the timm 0.4.5 that it requires. Writes
ORIGINAL.safetensors beside this file: every fifth pixel of the outputs, named by the size of the image; the names and
shapes of the tensors; the commit. Images are those of `record_swin.py`, weights those of `random_dpt`.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.originals.record_vit import commit_of, random_weights, shapes_of, write

SIZES = ((64, 64), (96, 64), (64, 160), (32, 128))  # DPT's sizes are multiples of 32; the last has 16 cells as well
WIDE: dict[str, Any] = {"hooks": [0, 1, 2, 3], "vit_features": 32, "use_readout": "project"}
ORIGINALS: dict[str, tuple[str, bool, dict[str, Any]]] = {  # model, hybrid, options
    "dpt": ("DPTDepthModel", False, {}),
    "dpt-hybrid": ("DPTDepthModel", True, {}),
    "dpt-hybrid-nyu": ("DPTDepthModel", True, {"scale": 0.000305, "shift": 0.1378, "invert": True}),
    "dpt-segmentation": ("DPTSegmentationModel", False, {"num_classes": 5}),
    "dpt-hybrid-segmentation": ("DPTSegmentationModel", True, {"num_classes": 5}),
}


def encoder(hybrid: bool) -> nn.Module:
    """A small ViT with DPT's hooks, instead of timm's `vit_large_patch16_384` or `vit_base_resnet50_384`."""
    from dpt import vit
    from timm.models.resnetv2 import ResNetV2
    from timm.models.vision_transformer import StdConv2dSame, VisionTransformer

    resnet = {"layers": (3, 4, 9), "num_classes": 0, "global_pool": "", "preact": False, "stem_type": "same"}
    backbone = ResNetV2(**resnet, conv_layer=StdConv2dSame) if hybrid else None
    small = VisionTransformer(64, num_classes=3, embed_dim=32, depth=4, num_heads=2, hybrid_backbone=backbone)
    make = vit._make_vit_b_rn50_backbone if hybrid else vit._make_vit_b16_backbone
    pretrained: nn.Module = make(small, channels(hybrid), **WIDE)
    return pretrained


def random_dpt(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
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


def channels(hybrid: bool) -> list[int]:
    return [256, 512, 24, 40] if hybrid else [8, 16, 24, 40]


@torch.no_grad()
def record(name: str, checkout: Path) -> None:
    sys.path.insert(0, str(checkout))
    from dpt import blocks, models

    kind, hybrid, options = ORIGINALS[name]
    scratch = blocks._make_scratch(channels(hybrid), 16)
    vars(models)["_make_encoder"] = lambda *sizes, **others: (encoder(hybrid), scratch)
    model = getattr(models, kind)(features=16, **options).eval()
    model.load_state_dict(random_dpt(shapes_of(model)), strict=False)
    maps = {"{}x{}".format(*size): model(random_image(*size))[..., ::5, ::5] for size in SIZES}
    write(name, "isl-org/DPT", commit_of(checkout), shapes_of(model), maps)


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
