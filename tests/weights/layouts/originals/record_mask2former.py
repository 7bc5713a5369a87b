"""Records what the authors' code of Mask2Former computes, for `test_mask2former_originals.py`.

    python -m tests.weights.layouts.originals.record_mask2former CHECKOUT

CHECKOUT: a clone of facebookresearch/Mask2Former. Writes mask2former.safetensors beside this file: the class logits of
a padded batch of two images after the last and the first decoder layer, and every third pixel of their masks' logits;
the names and shapes of the parameters; the commit. Images are those of `record_swin.py`, weights `random_weights`.
"""

import importlib
import json
import subprocess
import sys
from collections import namedtuple
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests.weights.layouts.originals.record_swin import SMALL, random_image, random_state

HERE = Path(__file__).parent
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


class Mask2Former(nn.Module):
    """The parts of `maskformer_model.py` and `mask_former_head.py`, with their names."""

    def __init__(self) -> None:
        super().__init__()
        swin, pixels, decoder = (
            importlib.import_module(f"{PACKAGE}.{name}")
            for name in (
                "backbone.swin",
                "pixel_decoder.msdeformattn",
                "transformer_decoder.mask2former_transformer_decoder",
            )
        )
        self.backbone = swin.SwinTransformer(**SMALL)
        shape = sys.modules["detectron2.layers"].ShapeSpec
        shapes = {f"res{i + 2}": shape(SMALL["embed_dim"] << i, 4 << i) for i in range(4)}
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
    """Those of `random_state`, with queries that differ by their norm, and offsets of some cells."""
    state = random_state(shapes)
    scales = {"query_": 40.0, "sampling_offsets.bias": 4.0}
    return {name: x * next((by for part, by in scales.items() if part in name), 1.0) for name, x in state.items()}


def batch() -> Tensor:
    """(2, 3, H, W), normalised images, padded with 0."""
    height, width = (-(-max(size[axis] for size in SIZES) // MULTIPLE) * MULTIPLE for axis in (0, 1))
    return torch.cat([F.pad(random_image(h, w), (0, width - w, 0, height - h)) for h, w in SIZES])


@torch.no_grad()
def record(checkout: Path) -> None:
    _stand_ins(checkout)
    model = Mask2Former()
    nn.Module.eval(model.backbone)
    model.sem_seg_head.eval()
    shapes = {name: [*x.shape] for name, x in model.named_parameters()}
    model.load_state_dict(random_weights(shapes), strict=False)
    outputs = model(batch())
    layers = {"last": outputs, "first": outputs["aux_outputs"][0]}
    tensors = {}
    for name, found in layers.items():
        tensors[f"{name}.logits"] = found["pred_logits"].contiguous()
        tensors[f"{name}.masks"] = found["pred_masks"][..., ::3, ::3].contiguous()
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    metadata = {"repository": "facebookresearch/Mask2Former", "commit": commit, "shapes": json.dumps(shapes)}
    save_file(tensors, HERE / "mask2former.safetensors", metadata)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
