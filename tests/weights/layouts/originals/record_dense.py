"""Records what the authors' code of DPT, Depth Anything, SETR, DETR and Mask2Former computes; run by `record.py`."""

import importlib
import math
import sys
from collections import namedtuple
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from tests.weights.layouts.originals.record import (
    SWIN,
    Originals,
    Recording,
    fill,
    name_of,
    old_timm,
    shapes_of,
    stand_in,
)
from tests.weights.layouts.originals.weights import (
    DETR_BATCHES,
    NUM_HEADS,
    NUM_PROPOSALS,
    detr_image,
    key_of,
    mask2former_batch,
    random_depth_anything,
    random_detr,
    random_dpt,
    random_image,
    random_mask2former,
)

# ---- DPT and Depth Anything: every fifth pixel ----


def dpt(checkout: Path, kind: str, hybrid: bool, **options: Any) -> Recording:
    """With a small ViT instead of timm's; needs the timm 0.4.5 that the repository requires."""
    from dpt import blocks, models, vit
    from timm.models.resnetv2 import ResNetV2
    from timm.models.vision_transformer import StdConv2dSame, VisionTransformer

    resnet = {"layers": (3, 4, 9), "num_classes": 0, "global_pool": "", "preact": False, "stem_type": "same"}
    backbone = ResNetV2(**resnet, conv_layer=StdConv2dSame) if hybrid else None
    small = VisionTransformer(64, num_classes=3, embed_dim=32, depth=4, num_heads=2, hybrid_backbone=backbone)
    make = vit._make_vit_b_rn50_backbone if hybrid else vit._make_vit_b16_backbone
    channels = [256, 512, 24, 40] if hybrid else [8, 16, 24, 40]
    encoder = make(small, channels, hooks=[0, 1, 2, 3], vit_features=32, use_readout="project")
    scratch = blocks._make_scratch(channels, 16)
    vars(models)["_make_encoder"] = lambda *sizes, **others: (encoder, scratch)
    model = fill(getattr(models, kind)(features=16, **options), random_dpt)
    sizes = ((64, 64), (96, 64), (64, 160), (32, 128))  # multiples of 32; the last has 16 cells as well
    return shapes_of(model), {name_of(size): model(random_image(*size))[..., ::5, ::5] for size in sizes}


def depth_anything(checkout: Path, folder: str = ".", **metres: float) -> Recording:
    """V1's code has the same model, whose maps are those of the last four blocks."""
    sys.path.insert(0, str(checkout / folder))
    from depth_anything_v2 import dinov2, dpt

    encoder = partial(
        dinov2.DinoVisionTransformer, img_size=70, patch_size=14, embed_dim=32, depth=4, num_heads=2, init_values=1.0,
        block_chunks=0, interpolate_antialias=False, interpolate_offset=0.1,
        block_fn=partial(dinov2.Block, attn_class=dinov2.MemEffAttention),
    )  # fmt: skip
    vars(dpt)["DINOv2"] = lambda model_name: encoder()
    model = dpt.DepthAnythingV2("vits", features=16, out_channels=[8, 16, 24, 40], **metres)
    model.intermediate_layer_idx["vits"] = [0, 1, 2, 3]
    fill(model, random_depth_anything)
    sizes = ((70, 70), (98, 70), (56, 154), (42, 126))  # the first is the grid of the position table
    return shapes_of(model), {name_of(size): model(random_image(*size))[..., ::5, ::5] for size in sizes}


# ---- SETR: every fifth pixel, also of the auxiliary heads for the first size ----

WIDTHS = {1024: 32, 512: 32, 256: 16, 128: 8}  # 512: four levels of 128
SMALL: dict[str, Any] = {
    "img_size": 64, "num_layers": 4, "num_heads": 2, "out_indices": (0, 1, 2, 3), "num_classes": 5, "init_cfg": None,
}  # fmt: skip


def small(value: Any) -> Any:
    """A section of a config with small sizes, and batch norms that run on CPUs."""
    if isinstance(value, dict):
        if value.get("type") == "SyncBN":
            return {"type": "BN"}
        return {key: SMALL[key] if key in SMALL else small(x) for key, x in value.items()}
    return type(value)(map(small, value)) if isinstance(value, (list, tuple)) else WIDTHS.get(value, value)


def setr(checkout: Path, config: str) -> Recording:
    """Needs mmengine and mmcv-lite. config: of a published model."""
    sys.modules["mmcv.ops"] = MagicMock()  # compiled operators of other models
    import mmseg.models
    from mmengine import Config

    values = Config.fromfile(checkout / "configs" / "setr" / f"setr_vit-l_{config}.py").model.to_dict()
    del values["data_preprocessor"]
    values["backbone"]["patch_bias"] = True  # as in the published checkpoints
    model = fill(mmseg.models.build_segmentor(small(values)))
    tensors = {}
    for size in ((64, 64), (96, 64), (71, 115), (37, 81), (32, 48)):
        tensors[name_of(size)] = model.encode_decode(random_image(*size), [{"img_shape": size}])[..., ::5, ::5]
    maps = model.extract_feat(random_image(64, 64))
    tensors |= {f"auxiliary.{i}": head(maps)[..., ::5, ::5] for i, head in enumerate(model.auxiliary_head)}
    return shapes_of(model), tensors


# ---- DETR and Deformable DETR: logits and boxes after each decoder layer, and every third pixel of the masks ----

DETR: dict[str, Any] = {
    "dataset_file": "coco", "device": "cpu", "lr_backbone": 1e-5, "frozen_weights": None, "masks": False,
    "aux_loss": True, "backbone": "resnet50", "dilation": False, "position_embedding": "sine", "hidden_dim": 32,
    "nheads": NUM_HEADS, "dropout": 0.0, "enc_layers": 2, "dec_layers": 2, "dim_feedforward": 48, "num_queries": 5,
    "pre_norm": False, "set_cost_class": 1, "set_cost_bbox": 5, "set_cost_giou": 2, "cls_loss_coef": 2,
    "bbox_loss_coef": 5, "giou_loss_coef": 2, "mask_loss_coef": 1, "dice_loss_coef": 1, "eos_coef": 0.1,
    "focal_alpha": 0.25, "num_feature_levels": 4, "enc_n_points": 4, "dec_n_points": 4, "with_box_refine": False,
    "two_stage": False, "position_embedding_scale": 2 * math.pi,
}  # fmt: skip


def detr(checkout: Path, **options: Any) -> Recording:
    """In double precision: these weights turn the rounding of single precision into differences of up to 4e-3.

    The CUDA operator of Deformable DETR is replaced by the authors' implementation in PyTorch.
    """
    import torchvision
    from torchvision.transforms.functional import normalize

    operator = sys.modules["MultiScaleDeformableAttention"] = ModuleType("MultiScaleDeformableAttention")
    torchvision.__version__ = "0.9.0"  # Deformable DETR compares the first three characters with 0.5
    import models.backbone
    from util.misc import nested_tensor_from_tensor_list

    vars(models.backbone)["is_main_process"] = lambda: False  # which loads weights
    if (checkout / "models" / "ops").exists():
        from models.ops.functions.ms_deform_attn_func import ms_deform_attn_core_pytorch

        vars(operator)["ms_deform_attn_forward"] = lambda value, shapes, starts, locations, weights, step: (
            ms_deform_attn_core_pytorch(value, shapes, locations, weights)
        )
    model: nn.Module = models.build_model(SimpleNamespace(**{**DETR, **options}))[0]
    shapes = shapes_of(model)
    model.load_state_dict(random_detr(shapes))
    model.double().eval()
    tensors = {}
    for sizes in DETR_BATCHES:
        pixels = [normalize(detr_image(*size) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) for size in sizes]
        outputs = model(nested_tensor_from_tensor_list([x.double() for x in pixels]))
        layers = [*outputs["aux_outputs"], outputs]
        for kind in ("logits", "boxes"):
            tensors[f"{key_of(sizes)}.{kind}"] = torch.stack([layer[f"pred_{kind}"] for layer in layers]).float()
        if "pred_masks" in outputs:
            tensors[f"{key_of(sizes)}.masks"] = outputs["pred_masks"][..., ::3, ::3].float()
    return shapes, tensors


# ---- Mask2Former: class logits after the last and the first decoder layer, and every third pixel of their masks ----


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


def resnet50(detectron2: Path) -> nn.Module:
    """detectron2's, as the configs of Mask2Former build it."""
    for name in ("modeling.backbone", "layers"):
        stand_in(f"detectron2.{name}", detectron2)
    stand_in("detectron2.utils.comm")
    stand_in("detectron2.utils.env", TORCH_VERSION=(2, 6))
    stand_in("fvcore.nn.distributed", differentiable_all_reduce=None)
    stand_in("fvcore.nn.weight_init", c2_msra_fill=lambda module: None)
    stand_in("detectron2.modeling.backbone.backbone", Backbone=nn.Module)
    stand_in("detectron2.modeling.backbone.build", BACKBONE_REGISTRY=Registry())
    blocks, norms = (importlib.import_module(f"detectron2.layers.{name}") for name in ("blocks", "batch_norm"))
    options = {"CNNBlockBase": blocks.CNNBlockBase, "DeformConv": None, "ModulatedDeformConv": None}
    stand_in("detectron2.layers", detectron2, get_norm=norms.get_norm, **options)
    module = importlib.import_module("detectron2.modeling.backbone.resnet")
    stages = module.ResNet.make_default_stages(50, norm="FrozenBN", stride_in_1x1=False)
    model: nn.Module = module.ResNet(
        module.BasicStem(norm="FrozenBN"), stages, out_features=["res2", "res3", "res4", "res5"]
    )
    return model


def mask2former(checkout: Path, on_resnet: bool) -> Recording:
    """The parts of `maskformer_model.py` and `mask_former_head.py`, with their names.

    On the ResNet of facebookresearch/detectron2, of which a clone is beside the checkout.
    """
    package, shape = "mask2former.modeling", namedtuple("ShapeSpec", ["channels", "stride"])
    for part in ("pixel_decoder", "transformer_decoder", "backbone"):
        stand_in(f"{package}.{part}", checkout)
    stand_in("fvcore.nn.weight_init", c2_xavier_fill=lambda module: None)
    stand_in("detectron2.config", configurable=lambda init: init)
    norms = lambda norm, channels: nn.GroupNorm(32, channels) if norm == "GN" else None  # noqa: E731
    stand_in("detectron2.layers", Conv2d=Conv2d, ShapeSpec=shape, get_norm=norms)
    registries = {"SEM_SEG_HEADS_REGISTRY": Registry(), "BACKBONE_REGISTRY": Registry()}
    stand_in("detectron2.modeling", **registries, Backbone=nn.Module, ShapeSpec=shape)
    stand_in("detectron2.utils.registry", Registry=Registry)
    stand_in("MultiScaleDeformableAttention")
    old_timm()
    pixels, decoder, swin = (
        importlib.import_module(f"{package}.{name}")
        for name in (
            "pixel_decoder.msdeformattn", "transformer_decoder.mask2former_transformer_decoder", "backbone.swin",
        )
    )  # fmt: skip
    width = 256 if on_resnet else SWIN["embed_dim"]
    shapes = {f"res{i + 2}": shape(width << i, 4 << i) for i in range(4)}
    model = nn.Module()
    model.sem_seg_head = head = nn.Module()
    head.pixel_decoder = pixels.MSDeformAttnPixelDecoder(
        shapes, transformer_dropout=0.0, transformer_nheads=4, transformer_dim_feedforward=48,
        transformer_enc_layers=2, conv_dim=64, mask_dim=64, norm="GN",
        transformer_in_features=["res3", "res4", "res5"], common_stride=4,
    )  # fmt: skip
    head.predictor = decoder.MultiScaleMaskedTransformerDecoder(
        64, num_classes=5, hidden_dim=64, num_queries=6, nheads=4, dim_feedforward=40, dec_layers=4,
        pre_norm=False, mask_dim=64, enforce_input_project=False,
    )  # fmt: skip
    model.backbone = resnet50(checkout.parent / "detectron2") if on_resnet else swin.SwinTransformer(**SWIN)
    nn.Module.eval(model.backbone)
    head.eval()
    buffers = ("norm.weight", "norm.bias", "running_mean", "running_var")
    own = {key: [*x.shape] for key, x in [*model.named_parameters(), *model.named_buffers()]}
    own = {key: x for key, x in own.items() if key in dict(model.named_parameters()) or key.endswith(buffers)}
    model.load_state_dict(random_mask2former(own), strict=False)
    features, _, maps = head.pixel_decoder.forward_features(model.backbone(mask2former_batch()))
    outputs, tensors = head.predictor(maps, features), {}
    for layer, found in {"last": outputs, "first": outputs["aux_outputs"][0]}.items():
        tensors[f"{layer}.logits"] = found["pred_logits"]
        tensors[f"{layer}.masks"] = found["pred_masks"][..., ::3, ::3]
    return own, tensors


NYU = {"scale": 0.000305, "shift": 0.1378, "invert": True}
DEPTH, CLASSES = "DPTDepthModel", "DPTSegmentationModel"
PANOPTIC = {"masks": True, "dataset_file": "coco_panoptic", "hidden_dim": 128}
TWO_STAGE = {"with_box_refine": True, "two_stage": True, "num_queries": NUM_PROPOSALS, "hidden_dim": 256}
ORIGINALS: Originals = {}
for _repository, _make, _each in (
    ("isl-org/DPT", dpt, {
        "dpt": {"kind": DEPTH, "hybrid": False},
        "dpt-hybrid": {"kind": DEPTH, "hybrid": True},
        "dpt-hybrid-nyu": {"kind": DEPTH, "hybrid": True, **NYU},
        "dpt-segmentation": {"kind": CLASSES, "hybrid": False, "num_classes": 5},
        "dpt-hybrid-segmentation": {"kind": CLASSES, "hybrid": True, "num_classes": 5},
    }),
    ("DepthAnything/Depth-Anything-V2", depth_anything, {
        "depth-anything-v2": {},
        "depth-anything-v2-indoor": {"folder": "metric_depth", "max_depth": 20.0},
        "depth-anything-v2-outdoor": {"folder": "metric_depth", "max_depth": 80.0},
    }),
    ("open-mmlab/mmsegmentation", setr, {
        "mmseg-setr-naive": {"config": "naive_8xb1-80k_cityscapes-768x768"},
        "mmseg-setr-naive-ade20k": {"config": "naive_8xb2-160k_ade20k-512x512"},
        "mmseg-setr-pup": {"config": "pup_8xb2-160k_ade20k-512x512"},
        "mmseg-setr-mla": {"config": "mla_8xb2-160k_ade20k-512x512"},
    }),
    ("facebookresearch/detr", detr, {
        "detr": {"backbone": "resnet18"},
        "detr-learned": {"backbone": "resnet18", "pre_norm": True, "position_embedding": "learned"},
        "detr-dc5": {"dilation": True},
        "detr-panoptic": PANOPTIC,
    }),
    ("fundamentalvision/Deformable-DETR", detr, {
        "deformable-detr": {},
        "deformable-detr-single-scale": {"num_feature_levels": 1},
        "deformable-detr-refined": {"with_box_refine": True},
        "deformable-detr-two-stage": TWO_STAGE,
    }),
    ("facebookresearch/Mask2Former", mask2former, {
        "mask2former": {"on_resnet": False}, "mask2former-resnet": {"on_resnet": True},
    }),
):  # fmt: skip
    ORIGINALS |= {_name: (_repository, partial(_make, **_options)) for _name, _options in _each.items()}
