"""Records what the authors' code of plain vision transformers computes, for `test_vit_originals.py`.

    python -m tests.weights.layouts.originals.record_vit ORIGINAL CHECKOUT

ORIGINAL: a key of ORIGINALS. CHECKOUT: a clone of its repository. Writes ORIGINAL.safetensors beside this file: feature
maps named by the size of the image and the number of the block; the names and shapes of the tensors; the commit. Images
are those of `record_swin.py`, weights those of `random_weights`.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.weights.layouts.originals.record_swin import random_image, random_state

HERE = Path(__file__).parent
NORM = partial(nn.LayerNorm, eps=1e-6)  # of all published models
SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 4, "num_heads": 2}
Features = Callable[[tuple[int, int]], dict[int, Tensor]]
"""Feature maps (1, C, H, W) of an image's size, by the number of the block."""


def random_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
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


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    """Of the parameters and the statistics of batch norms."""
    return {name: [*x.shape] for name, x in model.state_dict().items() if x.is_floating_point()}


def fill(model: nn.Module) -> nn.Module:
    model.load_state_dict(random_weights(shapes_of(model)), strict=False)
    return model.eval()


def commit_of(checkout: Path) -> str:
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()


def write(
    name: str, repository: str, commit: str, shapes: Mapping[str, Sequence[int]], tensors: dict[str, Tensor]
) -> None:
    metadata = {"repository": repository, "commit": commit, "shapes": json.dumps(shapes)}
    save_file({key: x.contiguous() for key, x in tensors.items()}, HERE / f"{name}.safetensors", metadata)


def dinov2(**options: Any) -> tuple[nn.Module, Features]:
    from dinov2.models.vision_transformer import DinoVisionTransformer

    model = fill(DinoVisionTransformer(img_size=56, patch_size=14, init_values=1.0, block_chunks=0, **SMALL, **options))

    def features(size: tuple[int, int]) -> dict[int, Tensor]:
        return dict(zip((2, 4), model.get_intermediate_layers(random_image(*size), (1, 3), reshape=True), strict=True))

    return model, features


def mae() -> tuple[nn.Module, Features]:
    """The encoder of pre-training, and at other sizes the model for which fine-tuning resizes its positions."""
    import timm.models.vision_transformer

    class Block(timm.models.vision_transformer.Block):
        def __init__(self, *sizes: Any, qk_scale: None, **options: Any) -> None:
            super().__init__(*sizes, **options)

    vars(np)["float"] = float  # removed in NumPy 1.24
    timm.models.vision_transformer.Block = Block  # whose option `qk_scale` has been removed
    from models_mae import MaskedAutoencoderViT
    from models_vit import VisionTransformer
    from util.pos_embed import interpolate_pos_embed

    options = {**SMALL, "norm_layer": NORM}
    decoder = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    model = fill(MaskedAutoencoderViT(img_size=64, **options, **decoder))

    def features(size: tuple[int, int]) -> dict[int, Tensor]:
        if size == (64, 64):
            x, _, order = model.forward_encoder(random_image(*size), 0.0)  # in random order
            cells = x[:, 1:].gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))
        else:
            vit = VisionTransformer(img_size=size, num_classes=0, **options)
            state = dict(model.state_dict())
            interpolate_pos_embed(vit, state)
            assert vit.load_state_dict(state, strict=False).missing_keys == []
            maps: list[Tensor] = []
            vit.norm.register_forward_hook(lambda module, inputs, x: maps.append(x))
            vit.eval().forward_features(random_image(*size))
            cells = maps[0][:, 1:]
        return {4: cells.transpose(1, 2).unflatten(2, (size[0] // 16, size[1] // 16))}

    return model, features


def beit(**options: Any) -> tuple[nn.Module, Features]:
    import timm.layers

    sys.modules["timm.models.layers"] = timm.layers
    vars(sys.modules.setdefault("timm.models.registry", ModuleType("registry")))["register_model"] = lambda make: make
    from beit.modeling_finetune import VisionTransformer

    model = fill(VisionTransformer(64, num_classes=3, qkv_bias=True, norm_layer=NORM, **SMALL, **options))

    def features(size: tuple[int, int]) -> dict[int, Tensor]:
        outputs = model.get_intermediate_layers(random_image(*size))
        cells = {number: model.norm(outputs[number - 1])[:, 1:] for number in (2, 4)}
        return {number: x.transpose(1, 2).unflatten(2, (4, 4)) for number, x in cells.items()}

    return model, features


class Original(NamedTuple):
    repository: str
    build: Callable[[], tuple[nn.Module, Features]]
    sizes: tuple[tuple[int, int], ...]


DINOV2_SIZES = ((56, 56), (70, 98), (28, 42), (28, 112))  # the last has as many cells as the first
REGISTERS = {"num_register_tokens": 4, "interpolate_antialias": True, "interpolate_offset": 0.0}
RELATIVE = {"use_abs_pos_emb": False, "init_values": 0.1}
ORIGINALS = {
    "dinov2": Original("facebookresearch/dinov2", dinov2, DINOV2_SIZES),
    "dinov2-registers": Original(
        "facebookresearch/dinov2", partial(dinov2, ffn_layer="swiglufused", **REGISTERS), DINOV2_SIZES
    ),
    "mae": Original("facebookresearch/mae", mae, ((64, 64), (96, 96), (48, 48))),
    "beit": Original("microsoft/unilm", partial(beit, use_rel_pos_bias=True, **RELATIVE), ((64, 64),)),
    "beit-shared": Original(
        "microsoft/unilm",
        partial(beit, use_shared_rel_pos_bias=True, use_mean_pooling=False, **RELATIVE),
        ((64, 64),),
    ),
    "beit-absolute": Original("microsoft/unilm", beit, ((64, 64),)),
}


@torch.no_grad()
def record(name: str, checkout: Path) -> None:
    sys.path.insert(0, str(checkout))
    repository, build, sizes = ORIGINALS[name]
    model, features = build()
    maps = {"{}x{}.{}".format(*size, number): x for size in sizes for number, x in features(size).items()}
    write(name, repository, commit_of(checkout), shapes_of(model), maps)


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
