"""Records what detectron2's MViTv2 computes, for `test_mvit_originals.py`.

    python tests/weights/layouts/originals/record_mvit.py CHECKOUT

CHECKOUT: a clone of facebookresearch/detectron2. Writes detectron2-mvitv2.safetensors beside this file: each feature
map, sampled on the grid of the last one, named by the size of the image and the stage; the names and shapes of the
parameters; the commit. Weights and images are those of `record_swin.py`.
"""

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import timm.layers
import torch
from record_swin import random_image, random_state, sampled
from safetensors.torch import save_file
from torch import nn

SIZES = ((128, 128), (160, 192), (97, 131), (64, 64), (40, 72))  # windows of 16, 8, 4 and 2 cells
SMALL = {"embed_dim": 8, "depth": 8, "num_heads": 1, "last_block_indexes": (0, 2, 5, 7), "img_size": 64}


def module(checkout: Path) -> ModuleType:
    """The module, with empty modules in place of the packages that its model does not need."""
    package = "detectron2.modeling.backbone"
    for name in ("detectron2", "detectron2.modeling", package, f"{package}.backbone"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(checkout / name.replace(".", "/"))]
    vars(sys.modules[f"{package}.backbone"])["Backbone"] = nn.Module
    sys.modules["timm.models.layers"] = timm.layers
    return importlib.import_module(f"{package}.mvit")


@torch.no_grad()
def record(checkout: Path) -> None:
    norm = partial(nn.LayerNorm, eps=1e-6)  # as in all configs
    model = module(checkout).MViT(**SMALL, adaptive_window_size=16, norm_layer=norm).eval()
    shapes = {name: [*x.shape] for name, x in model.named_parameters()}
    model.load_state_dict(random_state(shapes))
    tensors = {}
    for size in SIZES:
        for i, x in enumerate(sampled(list(model(random_image(*size)).values()))):
            tensors["{}x{}.{}".format(*size, i)] = x.contiguous()
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    metadata = {"repository": "facebookresearch/detectron2", "commit": commit, "shapes": json.dumps(shapes)}
    save_file(tensors, Path(__file__).parent / "detectron2-mvitv2.safetensors", metadata)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
