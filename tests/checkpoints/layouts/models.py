"""Small detectors of transformers with random weights, which reveal mistakes, and what models compute."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densevit.interfaces import IMAGENET_MEAN, IMAGENET_STD

STAGES = [f"stage{i}" for i in range(1, 5)]
R18 = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
SWIN = {"embed_dim": 32, "depths": [1, 1, 3, 1], "num_heads": [1, 2, 4, 8], "window_size": 4, "image_size": 128}
KEPT = r"n(um)?_points_scale|decoder\.up$|decoder\.reg_scale|attn_mask_probs|relative_coords_table|empty_weight"


@torch.no_grad()
def randomised(model: nn.Module, factors: Mapping[str, float] | None = None, spread: float = 0.2) -> Any:
    """The model with random weights. factors: by pattern of a name, of the deviation, else 0.8 by the fan-in's root.

    spread: of vectors.
    """
    torch.manual_seed(5)
    for name, tensor in model.state_dict().items():
        factor = next((x for pattern, x in (factors or {}).items() if re.search(pattern, name)), None)
        if not tensor.is_floating_point() or re.search(KEPT, name):
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.ndim <= 1:  # the factor is that of matrices, except for sampling offsets
            scale = name.endswith(("weight", "lambda1", "lab.scale"))
            tensor.normal_(1.0 if scale else 0.0, factor or spread if "sampling_offsets" in name else spread)
        else:
            tensor.normal_(0, (0.8 if factor is None else factor) * tensor[0].numel() ** -0.5)
    return model.eval()


def with_layers(theirs: nn.Module, two_stage: bool = True) -> None:
    """Gives each decoder layer its own class and box layers, as released."""
    for part in ("class_embed", "bbox_embed"):
        layers = nn.ModuleList(copy.deepcopy(layer) for layer in getattr(theirs, part))
        setattr(theirs, part, layers)
        if part == "bbox_embed" or two_stage:
            setattr(theirs.model.decoder, part, layers)


@torch.no_grad()
def run(theirs: nn.Module, batch: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]) -> Any:
    """As in their image processor: normalised, then padded with 0."""
    center, scale = (torch.tensor(x)[:, None, None] for x in (mean, std))
    padding = batch["padding_mask"]
    pixels = ((batch["images"] / 255 - center) / scale).masked_fill(padding[:, None], 0.0)
    return theirs(pixels, pixel_mask=(~padding).long()) if padding.any() else theirs(pixels)


IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
NONE = ((0.0,) * 3, (1.0,) * 3)
HALF = ((0.5,) * 3, (0.5,) * 3)


def assert_same(found: Mapping[str, Tensor], reference: Any, rows: Any = slice(None)) -> None:
    """Compares a head's outputs with those of transformers. rows: of their logits."""
    names = {
        "logits": ("logits", "class_queries_logits"),
        "boxes": ("pred_boxes",),
        "masks": ("pred_masks", "masks_queries_logits"),
    }
    for ours, theirs in names.items():
        for name in theirs:
            if (expected := getattr(reference, name, None)) is None:
                continue
            expected = expected[..., rows] if ours == "logits" and rows != slice(None) else expected
            assert expected.std(1).mean() > 0.01, ours
            scale = max(1.0, 0.1 * expected.abs().max().item())
            torch.testing.assert_close(found[ours], expected, rtol=1e-4, atol=1e-4 * scale)


def coco_names() -> dict[str, Any]:
    from torchvision.models._meta import _COCO_CATEGORIES

    return {"id2label": dict(enumerate(_COCO_CATEGORIES)), "label2id": {}}


# ---- detectors ----

DETR = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
RTDETR: dict[str, Any] = {
    "num_labels": 80, "num_queries": 17, "encoder_hidden_dim": 32, "encoder_ffn_dim": 40, "hidden_expansion": 0.5,
    "decoder_layers": 2, "decoder_ffn_dim": 48, "freeze_backbone_batch_norms": False,
}  # fmt: skip


def resnet18(own: bool, stages: Sequence[str]) -> dict[str, Any]:
    """The keys of a configuration for a ResNet-18: transformers' own, with the maps of these stages, or timm's."""
    import transformers

    if own:
        config = transformers.ResNetConfig(**R18, out_features=stages)
        return {"backbone_config": config, "use_timm_backbone": False}
    return {"backbone": "resnet18", "use_timm_backbone": True, "use_pretrained_backbone": False}


SHARP = {"query_position": 22.0, r"[qkv]_proj|bbox_predictor\.layers\.2\.weight": 1.5, r"\.weight$": 1.0}


@torch.no_grad()
def detr(kind: str, batch: Mapping[str, Any], own: bool = False, **options: Any) -> Any:
    """DetrForObjectDetection and its relatives. own: transformers' own ResNet, not timm's. The inputs of the
    transformer differ between cells of the batch."""
    import transformers

    small = {"num_queries": 7, "d_model": 32, **DETR}
    backbone = resnet18(own, STAGES if "Segmentation" in kind else ["stage4"])
    model = getattr(transformers, kind)
    theirs = randomised(model(model.config_class(**backbone | small | options)), SHARP, 0.3)
    if kind == "DetrForSegmentation":
        theirs.mask_head.conv1.conv.weight[:, theirs.config.d_model :] *= 1500  # attention maps sum to 1
    projected: list[Tensor] = []
    projection = (theirs.detr.model if kind == "DetrForSegmentation" else theirs.model).input_projection
    with projection.register_forward_hook(lambda module, inputs, output: projected.append(output)):
        run(theirs, batch, *IMAGENET)
    mean, std = projected[0].mean((0, 2, 3)), projected[0].std((0, 2, 3))
    projection.weight.div_(std[:, None, None, None])
    projection.bias.sub_(mean).div_(std)
    return theirs


def deformable_detr(own: bool = False, **options: Any) -> Any:
    import transformers

    small = {"num_queries": 17, "two_stage_num_proposals": 300, "d_model": 64, **DETR, "decoder_layers": 3}
    config = transformers.DeformableDetrConfig(**resnet18(own, STAGES[1:]), **small | options, **coco_names())
    theirs = transformers.DeformableDetrForObjectDetection(config)
    if options.get("with_box_refine"):
        with_layers(theirs, options.get("two_stage", False))
    return randomised(theirs, {"query_position": 11.0, r"sampling_offsets\.bias": 2.0})


def rtdetr(version: int = 1, layer: str = "basic", **options: Any) -> Any:
    import transformers

    sizes, depths = {
        "basic": ([64, 128, 256, 512], [2, 2, 2, 2]),
        "bottleneck": ([256, 512, 1024, 2048], [3, 4, 6, 3]),
    }[layer]
    backbone = transformers.RTDetrResNetConfig(
        hidden_sizes=sizes, depths=depths, layer_type=layer, out_features=STAGES[1:]
    )
    kind = transformers.RTDetrForObjectDetection if version == 1 else transformers.RTDetrV2ForObjectDetection
    small = {**RTDETR, "decoder_in_channels": [32] * 3, "d_model": 64, "encoder_in_channels": sizes[1:]}
    theirs = kind(kind.config_class(backbone_config=backbone, **small | options))
    return randomised(theirs, {r"\.weight$": 1.0}, 0.3)


THREE_LEVELS = {
    "encoder_in_channels": [256, 512, 1024], "decoder_in_channels": [32] * 3, "decoder_n_points": [3, 6, 3],
    "reg_scale": 8.0,
}  # fmt: skip


def dfine(levels: Mapping[str, Any], **options: Any) -> Any:
    """On HGNetv2-B0."""
    import transformers

    count = len(levels["decoder_in_channels"])
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 16, 16], embedding_size=16, hidden_sizes=[64, 256, 512, 1024],
        stage_in_channels=[16, 64, 256, 512], stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024], stage_num_blocks=[1, 1, 2, 1], stage_numb_of_layers=[3, 3, 3, 3],
        use_learnable_affine_block=True, out_features=STAGES[4 - count :],
    )  # fmt: skip
    small = {**RTDETR, "d_model": 32, "depth_mult": 0.34, "tie_word_embeddings": False}
    config = transformers.DFineConfig(backbone_config=backbone, **small | dict(levels) | options)
    theirs = transformers.DFineForObjectDetection(config)
    with_layers(theirs)
    return randomised(theirs, {r"\.weight$": 1.0}, 0.3)


SMALL_RF_DETR: dict[str, Any] = {
    "d_model": 64, "decoder_layers": 2, "decoder_ffn_dim": 48, "decoder_self_attention_heads": 2, "group_detr": 3,
    "decoder_cross_attention_heads": 4, "decoder_n_points": 3, "num_queries": 17, "intermediate_size": 256,
}  # fmt: skip


@torch.no_grad()
def _without_unused_rows(theirs: Any) -> Any:
    """Rows of no class are never predicted, as in trained models, so that they do not rank proposals."""
    unused = [i for i, name in theirs.config.id2label.items() if name in ("N/A", "__background__")]
    for name, parameter in theirs.named_parameters():
        if re.search(r"class_embed.*bias", name):
            parameter[unused] = -100.0
    return theirs


def rf_detr(kind: str, features: Sequence[int], num_windows: int, patch_size: int, **options: Any) -> Any:
    """kind: ObjectDetection or InstanceSegmentation. Its sizes are those of the fixture `small_rf_detr`."""
    import transformers

    backbone = transformers.RfDetrDinov2Config(
        hidden_size=48, num_attention_heads=4, image_size=4 * patch_size, patch_size=patch_size, out_indices=features,
        num_windows=num_windows,
    )  # fmt: skip
    config = transformers.RfDetrConfig(backbone_config=backbone, **SMALL_RF_DETR | coco_names() | options)
    return _without_unused_rows(randomised(getattr(transformers, f"RfDetrFor{kind}")(config), {"query_feat": 8.0}))


def lw_detr() -> Any:
    import transformers

    backbone = transformers.LwDetrViTConfig(
        hidden_size=48, num_hidden_layers=6, pretrain_image_size=96, window_block_indices=[0, 2, 4],
        out_indices=[2, 4, 6],
    )  # fmt: skip
    options = {"backbone_config": backbone, "projector_scale_factors": [2.0, 0.5], **SMALL_RF_DETR, **coco_names()}
    theirs = transformers.LwDetrForObjectDetection(transformers.LwDetrConfig(**options))
    return _without_unused_rows(randomised(theirs, {"query_feat": 8.0}))
