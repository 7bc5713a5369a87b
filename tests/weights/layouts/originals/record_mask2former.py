"""Records what the authors' code of Mask2Former computes, for `test_mask2former_originals.py`.

    python -m tests.weights.layouts.originals.record_mask2former CHECKOUT [DETECTRON2]

CHECKOUT, DETECTRON2: clones of facebookresearch/Mask2Former and facebookresearch/detectron2. Writes
mask2former.safetensors beside this file, of a model on a Swin, and with DETECTRON2 mask2former-resnet.safetensors, on
its ResNet-50: the class logits of a padded batch of two images after the last and the first decoder layer, and every
third pixel of their masks' logits; the names and shapes of the tensors; the commit. Images are those of
`record_swin.py`, weights `random_weights`.
"""

import importlib
import sys
from collections import namedtuple
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.weights.layouts.originals.record_swin import SMALL, random_image, random_state
from tests.weights.layouts.originals.record_vit import commit_of, write

SIZES = ((97, 131), (64, 90))  # of the images of the batch
MULTIPLE = 32  # to which `ImageList.from_tensors` pads
PACKAGE = "mask2former.modeling"
NAMES = ("fvcore.nn.weight_init", "detectron2.config", "detectron2.layers", "detectron2.modeling",
         "detectron2.utils.registry", "MultiScaleDeformableAttention", "timm.models.layers")  # fmt: skip


class Conv2d(nn.Conv2d):
    """detectron2's: a convolution, an optional norm and an optional activation."""

    def __init__(self, *args: Any, norm: nn.Module | None = None, activation: Any = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class Registry:
    def __init__(self, *names: str) -> None:
        pass

    def register(self) -> Any:
        return lambda kind: kind


def _stand_ins(checkout: Path) -> None:
    """Modules in place of the libraries, and packages whose `__init__.py` is not run."""
    import timm.layers

    for name in [
        ".".join(own[:count]) for own in (one.split(".") for one in NAMES) for count in range(1, len(own) + 1)
    ]:
        sys.modules.setdefault(name, ModuleType(name)).__path__ = []
    for name in ("mask2former", *(f"{PACKAGE}{part}" for part in ("", ".pixel_decoder", ".transformer_decoder"))):
        module = sys.modules[name] = ModuleType(name)
        module.__path__ = [str(checkout / name.replace(".", "/"))]
    modules: dict[str, dict[str, Any]] = {name: vars(sys.modules[name]) for name in NAMES}
    modules["fvcore.nn.weight_init"]["c2_xavier_fill"] = lambda module: None
    sys.modules["fvcore.nn"].weight_init = sys.modules["fvcore.nn.weight_init"]  # type: ignore[attr-defined]
    modules["detectron2.config"]["configurable"] = lambda init: init
    shape = namedtuple("ShapeSpec", ["channels", "stride"])
    norms = lambda norm, channels: nn.GroupNorm(32, channels) if norm == "GN" else None  # noqa: E731
    modules["detectron2.layers"].update(Conv2d=Conv2d, ShapeSpec=shape, get_norm=norms)
    registries = {"SEM_SEG_HEADS_REGISTRY": Registry(), "BACKBONE_REGISTRY": Registry()}
    modules["detectron2.modeling"].update(registries, Backbone=nn.Module, ShapeSpec=shape)
    modules["detectron2.utils.registry"]["Registry"] = Registry
    modules["timm.models.layers"].update(vars(timm.layers))


def resnet50(detectron2: Path) -> nn.Module:
    """detectron2's, as the configs of Mask2Former build it."""
    modeling, layers = (sys.modules[f"detectron2.{name}"] for name in ("modeling", "layers"))
    modeling.__path__, layers.__path__ = ([str(detectron2 / "detectron2" / name)] for name in ("modeling", "layers"))
    for name in (
        "modeling.backbone",
        "modeling.backbone.backbone",
        "modeling.backbone.build",
        "utils.comm",
        "utils.env",
    ):
        sys.modules[f"detectron2.{name}"] = ModuleType(name)
    vars(sys.modules["detectron2.utils"]).update(
        comm=sys.modules["detectron2.utils.comm"], env=sys.modules["detectron2.utils.env"]
    )
    vars(sys.modules["detectron2.utils.env"])["TORCH_VERSION"] = (2, 6)
    sys.modules["fvcore.nn.distributed"] = ModuleType("distributed")
    vars(sys.modules["fvcore.nn.distributed"])["differentiable_all_reduce"] = None
    vars(sys.modules["fvcore.nn.weight_init"])["c2_msra_fill"] = lambda module: None
    sys.modules["detectron2.modeling.backbone"].__path__ = [str(detectron2 / "detectron2/modeling/backbone")]
    vars(sys.modules["detectron2.modeling.backbone.backbone"])["Backbone"] = nn.Module
    vars(sys.modules["detectron2.modeling.backbone.build"])["BACKBONE_REGISTRY"] = Registry()
    blocks, norms = (importlib.import_module(f"detectron2.layers.{name}") for name in ("blocks", "batch_norm"))
    vars(layers).update(
        CNNBlockBase=blocks.CNNBlockBase, get_norm=norms.get_norm, DeformConv=None, ModulatedDeformConv=None
    )
    module = importlib.import_module("detectron2.modeling.backbone.resnet")
    stages = module.ResNet.make_default_stages(50, norm="FrozenBN", stride_in_1x1=False)
    stem = module.BasicStem(norm="FrozenBN")
    model: nn.Module = module.ResNet(stem, stages, out_features=["res2", "res3", "res4", "res5"])
    return model


class Mask2Former(nn.Module):
    """The parts of `maskformer_model.py` and `mask_former_head.py`, with their names. width: of the first stage."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        pixels, decoder = (
            importlib.import_module(f"{PACKAGE}.{name}")
            for name in ("pixel_decoder.msdeformattn", "transformer_decoder.mask2former_transformer_decoder")
        )
        self.backbone = backbone
        shape = sys.modules["detectron2.layers"].ShapeSpec
        shapes = {f"res{i + 2}": shape(width << i, 4 << i) for i in range(4)}
        self.sem_seg_head = nn.Module()
        self.sem_seg_head.pixel_decoder = pixels.MSDeformAttnPixelDecoder(
            shapes, transformer_dropout=0.0, transformer_nheads=4, transformer_dim_feedforward=48,
            transformer_enc_layers=2, conv_dim=64, mask_dim=64, norm="GN",
            transformer_in_features=["res3", "res4", "res5"], common_stride=4,
        )  # fmt: skip
        self.sem_seg_head.predictor = decoder.MultiScaleMaskedTransformerDecoder(
            64, num_classes=5, hidden_dim=64, num_queries=6, nheads=4, dim_feedforward=40, dec_layers=4,
            pre_norm=False, mask_dim=64, enforce_input_project=False,
        )  # fmt: skip

    def forward(self, images: Tensor) -> dict[str, Any]:
        head = self.sem_seg_head
        mask_features, _, features = head.pixel_decoder.forward_features(self.backbone(images))
        outputs: dict[str, Any] = head.predictor(features, mask_features)
        return outputs


def random_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Those of `random_state`, with queries that differ by their norm, offsets of some cells, positive variances and
    small residuals.
    """
    state = random_state(shapes)
    for name, x in state.items():
        if name.endswith("running_var"):
            state[name] = 0.5 + x.abs()
    scales = {"query_": 40.0, "sampling_offsets.bias": 4.0, "conv3.norm.weight": 0.3}
    return {name: x * next((by for part, by in scales.items() if part in name), 1.0) for name, x in state.items()}


def batch() -> Tensor:
    """(2, 3, H, W), normalised images, padded with 0."""
    height, width = (-(-max(size[axis] for size in SIZES) // MULTIPLE) * MULTIPLE for axis in (0, 1))
    return torch.cat([F.pad(random_image(h, w), (0, width - w, 0, height - h)) for h, w in SIZES])


@torch.no_grad()
def record(name: str, backbone: nn.Module, width: int, checkout: Path) -> None:
    model = Mask2Former(backbone, width)
    nn.Module.eval(model.backbone)
    model.sem_seg_head.eval()
    buffers = ("norm.weight", "norm.bias", "running_mean", "running_var")
    shapes = {key: [*x.shape] for key, x in model.named_parameters()}
    shapes |= {key: [*x.shape] for key, x in model.named_buffers() if key.endswith(buffers)}
    model.load_state_dict(random_weights(shapes), strict=False)
    outputs = model(batch())
    tensors = {}
    for layer, found in {"last": outputs, "first": outputs["aux_outputs"][0]}.items():
        tensors[f"{layer}.logits"] = found["pred_logits"]
        tensors[f"{layer}.masks"] = found["pred_masks"][..., ::3, ::3]
    write(name, "facebookresearch/Mask2Former", commit_of(checkout), shapes, tensors)


def main(checkout: Path, detectron2: Path | None = None) -> None:
    _stand_ins(checkout)
    swin = importlib.import_module(f"{PACKAGE}.backbone.swin").SwinTransformer(**SMALL)
    record("mask2former", swin, SMALL["embed_dim"], checkout)
    if detectron2 is not None:
        record("mask2former-resnet", resnet50(detectron2), 256, checkout)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
