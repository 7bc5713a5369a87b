"""Records what the authors' code of encoders and their maps computes, for the tests `test_*_originals.py`.

    python -m tests.weights.layouts.originals.record NAME CHECKOUT

NAME: of ORIGINALS here, or of `record_dense.py`. CHECKOUT: a clone of its repository. Writes NAME.safetensors beside
this file: outputs, named by the size of the image; the names and shapes of the tensors; the commit. Weights and images
are those of `weights.py`.
"""

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.weights.layouts.originals.weights import random_google, random_image, random_state, random_weights, sampled

Size = tuple[int, int]
Recording = tuple[Mapping[str, Any], dict[str, Tensor]]
"""The shapes of tensors by name, and the outputs."""
Originals = dict[str, tuple[str, Callable[[Path], Recording]]]
"""By name: the repository, and what records of a checkout."""

HERE = Path(__file__).parent
NORM = partial(nn.LayerNorm, eps=1e-6)
SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 4, "num_heads": 2}
SWIN = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4], "window_size": 4, "drop_path_rate": 0.0}


def stand_in(name: str, checkout: Path | None = None, **values: Any) -> None:
    """A module that is not read: an empty one, or a package in a checkout without its `__init__.py`."""
    parent, _, last = name.rpartition(".")
    if parent and parent not in sys.modules:
        stand_in(parent, checkout)
    module = sys.modules.setdefault(name, ModuleType(name))
    module.__path__ = [str(checkout / name.replace(".", "/"))] if checkout else []
    vars(module).update(values)
    if parent:
        setattr(sys.modules[parent], last, module)


def old_timm() -> None:
    """timm's layers under their former name."""
    import timm.layers

    sys.modules["timm.models.layers"] = timm.layers


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    """Of the parameters and the statistics of batch norms."""
    return {name: [*x.shape] for name, x in model.state_dict().items() if x.is_floating_point()}


def fill(model: nn.Module, weights: Callable[[Any], Any] = random_weights) -> nn.Module:
    model.load_state_dict(weights(shapes_of(model)), strict=False)
    return model.eval()


def name_of(size: Size) -> str:
    return "{}x{}".format(*size)


def cells_of(tokens: Tensor, size: Size, stride: int = 16) -> Tensor:
    """The map (1, C, H, W) of the last tokens of an image."""
    h, w = (side // stride for side in size)
    return tokens[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))


def output_of(module: nn.Module, call: Callable[[], object]) -> Tensor:
    """The output of a module during a call."""
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda module, inputs, x: outputs.append(x))
    call()
    hook.remove()
    return outputs[0]


# ---- Swin ----

DENSE = ((160, 136), (128, 128), (97, 131), (64, 64), (40, 72))  # the last map has 1x2 to 5x5 cells
NOMINAL = ((128, 128), (128, 256), (256, 128), (64, 128))  # built for one size, of whole windows


def swin(checkout: Path, file: str, kind: str = "SwinTransformer", sizes: Sequence[Size] = NOMINAL) -> Recording:
    """Each map that the code normalises, sampled on the grid of the last one; sizes: with their own shapes."""
    registry = SimpleNamespace(register_module=lambda: lambda kind: kind)
    stand_in("mmcv_custom", load_checkpoint=None)
    stand_in("mmseg.utils", get_root_logger=None)
    stand_in("mmseg.models.builder", BACKBONES=registry)
    stand_in("detectron2.modeling.backbone.backbone", Backbone=nn.Module)
    name = file.removesuffix(".py").replace("/", ".")
    stand_in(name.rpartition(".")[0])
    old_timm()
    spec = importlib.util.spec_from_file_location(name, checkout / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tensors, shapes = {}, {}
    for size in sizes:
        model = getattr(module, kind)(**SWIN, **({"img_size": size} if sizes == NOMINAL else {}))
        model.eval()  # which returns None in one of them
        own = {key: [*x.shape] for key, x in model.named_parameters() if not key.startswith("head.")}
        model.load_state_dict(random_state(own), strict=False)
        call = partial(model, random_image(*size))
        if hasattr(model, "norm0"):
            outputs = call()
            maps = [*(outputs.values() if isinstance(outputs, dict) else outputs)]
        else:
            maps = [cells_of(output_of(model.norm, call), size, 32)]
        tensors |= {f"{name_of(size)}.{i}": x for i, x in enumerate(sampled(maps))}
        shapes[name_of(size)] = own
    first = next(iter(shapes.values()))
    differing = {size: {key: x for key, x in own.items() if x != first[key]} for size, own in shapes.items()}
    return {"shapes": first, **differing}, tensors


# ---- plain vision transformers ----


def dinov2(checkout: Path, **options: Any) -> Recording:
    from dinov2.models.vision_transformer import DinoVisionTransformer

    model = fill(DinoVisionTransformer(img_size=56, patch_size=14, init_values=1.0, block_chunks=0, **SMALL, **options))
    tensors = {}
    for size in ((56, 56), (70, 98), (28, 42), (28, 112)):  # the last has as many cells as the first
        maps = model.get_intermediate_layers(random_image(*size), (1, 3), reshape=True)
        tensors |= {f"{name_of(size)}.{number}": x for number, x in zip((2, 4), maps, strict=True)}
    return shapes_of(model), tensors


def mae(checkout: Path) -> Recording:
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
    x, _, order = model.forward_encoder(random_image(64, 64), 0.0)  # in random order
    cells = x[:, 1:].gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))
    tensors = {"64x64.4": cells_of(cells, (64, 64))}
    for size in ((96, 96), (48, 48)):
        vit = VisionTransformer(img_size=size, num_classes=0, **options)
        state = dict(model.state_dict())
        interpolate_pos_embed(vit, state)
        assert vit.load_state_dict(state, strict=False).missing_keys == []
        x = output_of(vit.norm, partial(vit.eval().forward_features, random_image(*size)))
        tensors[f"{name_of(size)}.4"] = cells_of(x, size)
    return shapes_of(model), tensors


def beit(checkout: Path, **options: Any) -> Recording:
    old_timm()
    stand_in("timm.models.registry", register_model=lambda make: make)
    from beit.modeling_finetune import VisionTransformer

    model = fill(VisionTransformer(64, num_classes=3, qkv_bias=True, norm_layer=NORM, **SMALL, **options))
    outputs = model.get_intermediate_layers(random_image(64, 64))
    return shapes_of(model), {f"64x64.{n}": cells_of(model.norm(outputs[n - 1]), (64, 64)) for n in (2, 4)}


RELEASED = {  # names of Google's released files, by those of today's flax
    "LayerNorm_1": "LayerNorm_2",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
}


def google(checkout: Path, **options: Any) -> Recording:
    """Needs jax and flax."""
    import jax
    from flax.traverse_util import flatten_dict, unflatten_dict
    from vit_jax.models_vit import VisionTransformer

    small = {"num_layers": 4, "mlp_dim": 128, "num_heads": 2, "dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    model = VisionTransformer(
        num_classes=None, transformer=small, hidden_size=32, classifier="token_unpooled", **options
    )
    images = random_image(64, 64).permute(0, 2, 3, 1).numpy()
    paths = flatten_dict(model.init(jax.random.PRNGKey(0), images, train=False)["params"])
    names = {path: "/".join(RELEASED.get(part, part) for part in path) for path in paths}
    shapes = {names[path]: [*x.shape] for path, x in paths.items()}
    arrays = random_google(shapes)
    params = unflatten_dict({path: arrays[names[path]].numpy() for path in paths})
    with jax.default_matmul_precision("highest"):
        tokens = torch.tensor(jax.device_get(model.apply({"params": params}, images, train=False)))
    return shapes, {"64x64": cells_of(tokens, (64, 64))}


# ---- MViTv2 ----


def record_mvit(model: nn.Module, maps: Callable[[Tensor], dict[int, Tensor]], sizes: Sequence[Size]) -> Recording:
    shapes = {key: [*x.shape] for key, x in model.named_parameters()}
    model.eval().load_state_dict(random_state(shapes))
    tensors = {f"{name_of(s)}.{stage}": x for s in sizes for stage, x in maps(random_image(*s)).items()}
    return shapes, tensors


def detectron2_mvit(checkout: Path) -> Recording:
    """Feature maps, sampled on the grid of the last one."""
    package = "detectron2.modeling.backbone"
    stand_in(package, checkout)
    stand_in(f"{package}.backbone", Backbone=nn.Module)
    old_timm()
    options = {"embed_dim": 8, "depth": 8, "num_heads": 1, "last_block_indexes": (0, 2, 5, 7), "img_size": 64}
    model = importlib.import_module(f"{package}.mvit").MViT(**options, adaptive_window_size=16, norm_layer=NORM)
    sizes = ((128, 128), (160, 192), (97, 131), (64, 64), (40, 72))  # windows of 16, 8, 4 and 2 cells
    return record_mvit(model, lambda image: dict(enumerate(sampled([*model(image).values()]))), sizes)


def facebook_mvit(checkout: Path, token: bool) -> Recording:
    """The released classifiers' options (configs/MVITv2_*.yaml) at a small size. Only the last map has a norm."""
    stand_in("mvit.models", checkout)
    stand_in("mvit.utils.misc", validate_checkpoint_wrapper_import=None)
    stand_in("mvit.utils.logging", get_logger=lambda name: None)
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
    last = lambda image: {3: cells_of(output_of(model.norm, partial(model, image)), (96, 96), 32)}  # noqa: E731
    return record_mvit(model, last, ((96, 96),))


REGISTERS = {"num_register_tokens": 4, "interpolate_antialias": True, "interpolate_offset": 0.0}
RELATIVE = {"use_abs_pos_emb": False, "init_values": 0.1}
SHARED = {"use_shared_rel_pos_bias": True, "use_mean_pooling": False, **RELATIVE}
HYBRID = {"patches": SimpleNamespace(size=(1, 1)), "resnet": SimpleNamespace(num_layers=(3, 4, 9), width_factor=1)}
SEGMENTATION, SWINS = "SwinTransformer/Swin-Transformer-Semantic-Segmentation", "microsoft/Swin-Transformer"
GOOGLE, DETECTRON2 = "google-research/vision_transformer", "facebookresearch/detectron2"
ORIGINALS: Originals = {
    "microsoft-swin": (SWINS, partial(swin, file="models/swin_transformer.py")),
    "microsoft-swinv2": (SWINS, partial(swin, file="models/swin_transformer_v2.py", kind="SwinTransformerV2")),
    "microsoft-swin-dense": (
        SEGMENTATION, partial(swin, file="mmseg/models/backbones/swin_transformer.py", sizes=DENSE),
    ),
    "detectron2-swin": (DETECTRON2, partial(swin, file="detectron2/modeling/backbone/swin.py", sizes=DENSE[2:4])),
    "dinov2": ("facebookresearch/dinov2", dinov2),
    "dinov2-registers": ("facebookresearch/dinov2", partial(dinov2, ffn_layer="swiglufused", **REGISTERS)),
    "mae": ("facebookresearch/mae", mae),
    "beit": ("microsoft/unilm", partial(beit, use_rel_pos_bias=True, **RELATIVE)),
    "beit-shared": ("microsoft/unilm", partial(beit, **SHARED)),
    "beit-absolute": ("microsoft/unilm", beit),
    "google-vit": (GOOGLE, partial(google, patches=SimpleNamespace(size=(16, 16)))),
    "google-hybrid": (GOOGLE, partial(google, **HYBRID)),
    "detectron2-mvitv2": (DETECTRON2, detectron2_mvit),
    "facebook-mvitv2": ("facebookresearch/mvit", partial(facebook_mvit, token=False)),
    "facebook-mvitv2-token": ("facebookresearch/mvit", partial(facebook_mvit, token=True)),
}  # fmt: skip


@torch.no_grad()
def main(name: str, checkout: Path) -> None:
    from tests.weights.layouts.originals import record_dense

    repository, build = {**ORIGINALS, **record_dense.ORIGINALS}[name]
    sys.path.insert(0, str(checkout))
    shapes, tensors = build(checkout)
    shapes = shapes if "shapes" in shapes else {"shapes": shapes}
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    metadata = {"repository": repository, "commit": commit, **{key: json.dumps(x) for key, x in shapes.items()}}
    save_file({key: x.contiguous() for key, x in tensors.items()}, HERE / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
