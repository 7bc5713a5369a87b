"""Small options of every registered head, such that every loss is used; tests of all heads walk over them. Random
batches of images with labels."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from densevit.interfaces import Class, Dataset, Head
from densevit.set_prediction.transformer import Transformer
from densevit.targets.types import TargetTypes
from densevit_heads.box_query_detr.extensions import Extensions
from densevit_heads.dpt.depth import DepthLossWeights
from densevit_heads.gtr.head import GtrTransformer
from densevit_heads.mask2former.pixel_decoder import MaskTransformer, PixelDecoderOptions
from densevit_heads.parts.hybrid_encoder import HybridEncoderOptions
from densevit_heads.rf_detr.head import GroupTransformer
from densevit_workbench.testing.targets import random_targets


class Case(NamedTuple):
    """A head with options.

    skip: checks that it cannot pass. reach: how far convolutions see padding, in pixels. levels: of the features, from
    stride 4 on; of heads that differ in their last layers only, two.
    """

    head: str
    options: Mapping[str, Any] = MappingProxyType({})
    skip: tuple[str, ...] = ()
    reach: int = 96
    levels: int = 4


DETR: dict[str, Any] = {"num_queries": 6, "transformer": Transformer(32, 2, 1, 2, 32, 0.0)}
ALL = Extensions(stride=8, fusion_blocks=1, position_bias=True, two_stage=True, denoising=2, dense_loss=1.0)
FAST = {**DETR, "classification": "mal", "extensions": ALL}
ENCODED = {**DETR, "encoder": HybridEncoderOptions(32, 32, 0.5)}
DFINE = {**ENCODED, "fusion_blocks": 1, "num_points": (2, 3, 1)}
QUERY_GROUPS = {
    "num_queries": 6,
    "transformer": GroupTransformer(32, 2, 0, 2, 32),
    "cross_attention_heads": 4,
    "num_groups": 3,
}
GTR = {"num_queries": 6, "transformer": GtrTransformer(32, 2, 0, 2, 32), "num_points": 2, "num_groups": 2}
NO_ENCODER = {"transformer": Transformer(32, 2, 0, 1, 32, 0.0), "contrastive_denoising": 0}
MASKS: dict[str, Any] = {
    "num_queries": 6, "num_points": 64, "transformer": MaskTransformer(32, 2, 2, 16),
    "pixel_decoder": PixelDecoderOptions(layers=1, feedforward=16),
}  # fmt: skip
MASK_OPTIONS = {**MASKS, "pixel_decoder": PixelDecoderOptions(1, 16, fusion_blocks=1), "semantic_loss": 2.0}
EOMT = {"num_queries": 6, "num_blocks": 2, "num_points": 64}
MAX = {"num_queries": 6, "width": 16, "pixel_width": 4, "num_heads": 2, "feedforward": 16}
SETR = {"width": 32, "branch_width": 16}
DPT = {"width": 16}
PADDING = ("padding",)  # it takes part in group norms as the authors' does, or in attention of a ViT's last blocks

CLASSES = tuple(Class(f"class {i}", i + 1, (i, i, i), thing=i != 1) for i in range(4))
CASES: dict[str, Case] = {
    "classifier": Case("classifier"),
    "classifier of a token": Case("classifier", {"tokens": 1, "label_smoothing": 0.0}, PADDING),
    "detr": Case("detr", DETR),
    "detr, pre-norm": Case(
        "detr", {**DETR, "pre_norm": True, "positions": "learned", "auxiliary_losses": False}
    ),
    "box_query_detr": Case("box_query_detr", DETR),
    "box_query_detr, all extensions": Case("box_query_detr", FAST),
    "box_query_detr, contrastive denoising": Case(
        "box_query_detr",
        {**DETR, "classification": "varifocal", "extensions": Extensions(contrastive_denoising=10)},
    ),
    "ddq": Case("ddq", {**DETR, "fusion_blocks": 1}),
    "deformable_detr": Case("deformable_detr", {**DETR, "num_levels": 2}),
    "deformable_detr, two-stage": Case(
        "deformable_detr", {**DETR, "num_levels": 2, "box_refinement": True, "two_stage": True}
    ),
    "dino": Case("dino", {**DETR, "classification": "varifocal", "contrastive_denoising": 10}),
    "rtdetr": Case("rtdetr", {**ENCODED, "num_points": (3, 1, 2)}),
    "rtdetr, discrete": Case("rtdetr", {**ENCODED, **NO_ENCODER, "sampling": "discrete"}),
    "dfine": Case("dfine", {**DFINE, "num_points": (2, 1), "min_stride": 16, "training_layers": 2, "layer_scale": 2}),
    "rf_detr": Case("rf_detr", QUERY_GROUPS),
    "rf_detr_instance": Case("rf_detr_instance", QUERY_GROUPS),
    "gtr": Case("gtr", GTR),
    "gtr_instance": Case("gtr_instance", {**GTR, "contrastive_denoising": 10}),
    "gtr_semantic": Case("gtr_semantic", {"width": 16, "dropout": 0.0}),
    "one_stage": Case("one_stage", {"width": 16, "fusion_blocks": 1}),
    "faster_rcnn": Case(
        "faster_rcnn", {"width": 16, "box_width": 16, "num_proposals": 50, "num_samples": 32}, PADDING
    ),
    "fcos": Case("fcos", {"width": 64, "score_threshold": 0.0}, (*PADDING, "export")),  # tests/export exports it
    "detr_panoptic": Case("detr_panoptic", {"detr": DETR}, PADDING),
    "box_query_detr_panoptic": Case("box_query_detr_panoptic", {"box_query_detr": FAST}, PADDING),
    "mask2former": Case("mask2former", MASKS),
    "mask2former_instance": Case("mask2former_instance", MASK_OPTIONS),
    "mask2former_semantic": Case("mask2former_semantic", MASKS),
    "eomt": Case("eomt", EOMT, PADDING),
    "eomt_instance": Case("eomt_instance", EOMT, PADDING),
    "eomt_semantic": Case("eomt_semantic", EOMT, PADDING),
    "pmt": Case("pmt", EOMT, PADDING),
    "pmt_instance": Case("pmt_instance", EOMT, PADDING),
    "pmt_semantic": Case("pmt_semantic", EOMT, PADDING),
    "kmax_deeplab": Case("kmax_deeplab", {**MAX, "layers": (1, 1, 1), "pixel_layers": (1, 1, 1, 1)}),
    "max_deeplab": Case("max_deeplab", {**MAX, "layers": 1}),
    "perceiver_io": Case("perceiver_io", {"width": 16, "num_latents": 4, "num_layers": 1, "num_heads": 2}),
    "segformer": Case("segformer", {"width": 16, "dropout": 0.0}),
    "segmenter": Case("segmenter", {"width": 32, "num_heads": 4, "dropout": 0.0}),
    "upernet": Case("upernet", {"width": 16, "auxiliary_width": 16, "dropout": 0.0}),
    "linear": Case("linear", {"dropout": 0.0}, (), 32),
    "linear_depth": Case("linear_depth", {"bins": 16}, (), 32),
    "setr, naive": Case("setr", {**SETR, "decoder": "naive", "ohem_threshold": 0.7, "ohem_min_kept": 50}, (), 160),
    "setr, pup": Case("setr", {**SETR, "decoder": "pup", "class_weights": "balanced"}, (), 160),
    "setr, mla": Case("setr", {**SETR, "decoder": "mla", "dice": 1.0, "label_smoothing": 0.1}, (), 160),
    "dpt": Case("dpt", {**DPT, "loss_weights": DepthLossWeights(trimmed=1.0, gradient=0.5)}, (), 256),
    "dpt, sigmoid": Case("dpt", {**DPT, "output": "sigmoid", "upsampling": "exact"}, (), 256),
    "dpt, softplus": Case(
        "dpt",
        {**DPT, "output": "softplus", "norm": "sync", "loss_weights": DepthLossWeights(l1=0.1, gradient=0.5)},
        (),
        64,
        2,
    ),
    "dpt, exponential": Case("dpt", {**DPT, "output": "exponential", "upsampling": "exact", "sky": True}, (), 256),
    "dpt, bins": Case("dpt", {**DPT, "output": "bins", "norm": "batch"}, (), 64, 2),
    "dpt_segmentation": Case(
        "dpt_segmentation",
        {**DPT, "dropout": 0.0, "dice": 1.0, "label_smoothing": 0.1, "class_weights": "balanced"},
        (),
        256,
    ),
}  # fmt: skip


def checked(head: Head) -> Head:
    """The head after the check of a data set with its classes."""
    if "check" in vars(type(head)):
        dataset = Dataset()
        dataset.classes = {str(head.task): head.classes}
        head.check(dataset)
    return head


def batch_of(required_targets: Collection[str], sizes: Sequence[tuple[int, int]], seed: int = 0) -> dict[str, Any]:
    """Images of these sizes with random labels, padded to the size of the first."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(len(sizes), *sizes[0], dtype=torch.bool)
    for padding, (h, w) in zip(mask, sizes, strict=True):
        padding[:h, :w] = False
    targets = [
        random_targets(required_targets, size, 4, generator, 3, i, types=TargetTypes()) for i, size in enumerate(sizes)
    ]
    images = torch.randint(256, (len(sizes), 3, *sizes[0]), generator=generator, dtype=torch.uint8)
    return {"images": images, "padding_mask": mask, "targets": targets}
