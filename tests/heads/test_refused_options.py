"""Options that heads refuse, with the facts that each message names: the option, its value, the limit or the fix."""

from typing import Any

import pytest

import densevit
from densevit.errors import DensevitError
from tests.heads.padded_batch import CLASSES


@pytest.mark.parametrize(
    ("head", "options", "facts"),
    [
        ("detr", {"transformer": {"width": 18, "num_heads": 2}}, "width is 18.* multiple of 4"),
        ("detr", {"classes": []}, "no classes"),
        ("box_query_detr", {"extensions": {"fusion_blocks": 1}}, "fusion_blocks.*set stride"),
        ("box_query_detr", {"extensions": {"denoising": 1, "contrastive_denoising": 3}}, "denoising to 0"),
        ("ddq", {"dense_loss": 0.0}, "set dense_loss"),
        ("deformable_detr", {"two_stage": True}, "two_stage.*set box_refinement to true"),
        ("deformable_detr", {"transformer": {"width": 48}}, "width is 48.* 32"),
        ("deformable_detr", {"min_stride": 32}, "min_stride is 32.* 16"),
        ("dino", {"mixed_query_selection": False}, "refined_positions.*set mixed_query_selection to true"),
        ("rtdetr", {"num_points": (4, 4)}, "num_points.* 2 .*3 levels"),
        ("rf_detr", {"transformer": {"encoder_layers": 1}}, "encoder_layers is 1; it must be at most 0"),
        (
            "rf_detr_instance",
            {"mask_stride": 3},
            "mask_stride is 3; the finest feature's stride, 8, must be a multiple",
        ),
        ("gtr", {"num_points": (4, 4, 4)}, "num_points has 3 numbers; expected one for each of 2 features"),
        ("gtr_semantic", {"dropout": 1.0}, "dropout is 1"),
        ("rtdetr", {"encoder": {"width": 16, "expansion": 0.01}}, "expansion is 0.01.* 16 channels"),
        ("dfine", {"num_bins": 7}, "num_bins is 7.*even"),
        ("one_stage", {"nms": 0.0}, "nms is 0"),
        ("fcos", {"strides": (8, 32)}, "strides 8, 32.*simple_pyramid"),
        ("faster_rcnn", {"strides": (8, 32)}, "strides 8, 32.*simple_pyramid"),
        ("gtr", {"num_groups": 1}, "num_groups is 1"),
        ("detr_panoptic", {"detr": {"transformer": {"widht": 3}}}, "detr.transformer.widht.*'width'"),
        ("mask2former", {"transformer": {"width": 48}}, "transformer.*width is 48.* 32"),
        ("mask2former", {"pixel_decoder": {"layers": 0}}, "pixel_decoder.*layers is 0"),
        ("segformer", {"width": 0}, "width is 0"),
        ("segmenter", {"width": 30, "num_heads": 4}, "multiple of num_heads"),
        ("upernet", {"pool_scales": ()}, "pool_scales.* 1 to 64"),
        ("setr", {"class_weights": (1.0, 2.0)}, "2 numbers.* 4 classes"),
        ("setr", {"feature": 4}, "feature is 4.* 2 feature maps"),
        ("setr", {"decoder": "mla", "feature": 2}, "'mla'.*Fix:"),
        ("dpt", {"loss_weights": {"silog": 1.0}}, "silog is 1.*relative"),
        ("dpt", {"output": "sigmoid", "max_depth": 1e-4}, "min_depth is 0.001 and max_depth 0.0001"),
        ("dpt", {"features": (0, 1)}, "from 1 to 2"),
        ("dpt_segmentation", {"dropout": 1.0}, "dropout is 1.0"),
        ("dpt_segmentation", {"features": (1,), "strides": (4, 16)}, "stride 4"),
        ("classifier", {"tokens": 3}, "tokens is 3"),
    ],
    ids=lambda x: None if isinstance(x, dict) else str(x),
)
def test_options_that_do_not_fit_are_refused(head: str, options: dict[str, Any], facts: str) -> None:
    given = {"strides": (8, 16), "classes": () if head == "dpt" else CLASSES, **options}
    with pytest.raises((DensevitError, ValueError), match=facts):
        densevit.create_head(head, (8, 16), given.pop("strides"), given.pop("classes"), **given)
