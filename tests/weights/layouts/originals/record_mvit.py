"""Records what the authors' code of MViTv2 computes, for `test_mvit_originals.py`.

    python -m tests.weights.layouts.originals.record_mvit ORIGINAL CHECKOUT

ORIGINAL: a key of ORIGINALS. CHECKOUT: a clone of its repository. Writes ORIGINAL.safetensors beside this file: feature
maps, those of detectron2 sampled on the grid of the last one, named by the size of the image and the stage; the names
and shapes of the parameters; the commit. Weights and images are those of `record_swin.py`.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import timm.layers
import torch
from torch import Tensor, nn

from tests.weights.layouts.originals.record_swin import random_image, random_state, sampled
from tests.weights.layouts.originals.record_vit import commit_of, write

NORM = partial(nn.LayerNorm, eps=1e-6)  # as in all configs
Features = Callable[[Tensor], dict[int, Tensor]]
"""The feature maps of an image, (1, C, H, W), by stage."""


def stand_in(name: str, path: Path | None = None, **values: Any) -> None:
    """A module that is not read: an empty one, or a package in a checkout without its `__init__.py`."""
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(path / name.replace(".", "/"))] if path else []
    vars(sys.modules[name]).update(values)


def detectron2(checkout: Path) -> tuple[nn.Module, Features]:
    package = "detectron2.modeling.backbone"
    for name in ("detectron2", "detectron2.modeling", package):
        stand_in(name, checkout)
    stand_in(f"{package}.backbone", Backbone=nn.Module)
    sys.modules["timm.models.layers"] = timm.layers
    options = {"embed_dim": 8, "depth": 8, "num_heads": 1, "last_block_indexes": (0, 2, 5, 7), "img_size": 64}
    model = importlib.import_module(f"{package}.mvit").MViT(**options, adaptive_window_size=16, norm_layer=NORM)
    return model, lambda image: dict(enumerate(sampled(list(model(image).values()))))


def facebook(checkout: Path, token: bool) -> tuple[nn.Module, Features]:
    """The released classifiers' options (configs/MVITv2_*.yaml) at a small size. Only the last map has a norm."""
    for name in ("mvit", "mvit.models"):
        stand_in(name, checkout)
    stand_in("mvit.utils")
    stand_in("mvit.utils.misc", validate_checkpoint_wrapper_import=None)
    stand_in("mvit.utils.logging", get_logger=lambda name: None)
    vars(sys.modules["mvit.utils"])["logging"] = sys.modules["mvit.utils.logging"]
    stand_in("mvit.models.build", MODEL_REGISTRY=SimpleNamespace(register=lambda: lambda kind: kind))
    mvit = SimpleNamespace(
        EMBED_DIM=8, NUM_HEADS=1, DEPTH=8, CLS_EMBED_ON=token, USE_ABS_POS=False, ZERO_DECAY_POS_CLS=False,
        PATCH_KERNEL=(7, 7), PATCH_STRIDE=(4, 4), PATCH_PADDING=(3, 3), DROPPATH_RATE=0.0, MLP_RATIO=4.0,
        DIM_MUL=[[1, 2.0], [3, 2.0], [6, 2.0]], HEAD_MUL=[[1, 2.0], [3, 2.0], [6, 2.0]], DIM_MUL_IN_ATT=True,
        POOL_KVQ_KERNEL=[3, 3], POOL_KV_STRIDE_ADAPTIVE=[4, 4], MODE="conv", POOL_FIRST=False, QKV_BIAS=True,
        POOL_Q_STRIDE=[[i, *[1 + (i in (1, 3, 6))] * 2] for i in range(8)], REL_POS_SPATIAL=True,
        REL_POS_ZERO_INIT=False, RESIDUAL_POOLING=True,
    )  # fmt: skip
    options = SimpleNamespace(NUM_CLASSES=3, ACT_CHECKPOINT=False, DROPOUT_RATE=0.0, HEAD_ACT="softmax")
    data = SimpleNamespace(TRAIN_CROP_SIZE=96, TEST_CROP_SIZE=96)
    build = importlib.import_module("mvit.models.mvit_model").MViT
    model = build(SimpleNamespace(DATA=data, MODEL=options, MVIT=mvit))
    tokens: list[Tensor] = []
    model.norm.register_forward_hook(lambda module, inputs, x: tokens.append(x))

    def features(image: Tensor) -> dict[int, Tensor]:
        model(image)
        return {3: tokens.pop()[:, int(token) :].transpose(1, 2).unflatten(2, (3, 3))}

    return model, features


class Original(NamedTuple):
    repository: str
    build: Callable[[Path], tuple[nn.Module, Features]]
    sizes: tuple[tuple[int, int], ...]


ORIGINALS = {
    "detectron2-mvitv2": Original(  # windows of 16, 8, 4 and 2 cells
        "facebookresearch/detectron2", detectron2, ((128, 128), (160, 192), (97, 131), (64, 64), (40, 72))
    ),
    "facebook-mvitv2": Original("facebookresearch/mvit", partial(facebook, token=False), ((96, 96),)),
    "facebook-mvitv2-token": Original("facebookresearch/mvit", partial(facebook, token=True), ((96, 96),)),
}


@torch.no_grad()
def record(name: str, checkout: Path) -> None:
    repository, build, sizes = ORIGINALS[name]
    model, features = build(checkout)
    shapes = {key: [*x.shape] for key, x in model.named_parameters()}
    model.eval().load_state_dict(random_state(shapes))
    maps = {"{}x{}.{}".format(*s, stage): x for s in sizes for stage, x in features(random_image(*s)).items()}
    write(name, repository, commit_of(checkout), shapes, maps)


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
