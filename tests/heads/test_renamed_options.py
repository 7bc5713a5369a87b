"""Options of earlier versions are read as the head and options of now, with a warning; tensors keep their names."""

from typing import Any

import pytest
import yaml

from densevit import config as configs
from densevit.errors import ConfigError
from densevit.inference.creating import build_model
from densevit.interfaces import Class

SMALL = {"num_queries": 6, "width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2}
NESTED = {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2}
ANCHORS = {**SMALL, "anchors": True, "classification": "mal", "memory_stride": 8}
TWO_STAGE = {**SMALL, "ffn_width": 16, "box_refinement": True, "two_stage": True}
OF_DAB = {"num_queries": 6, "classification": "mal", "stride": 8, "costs": {"label": 1.0}}
OF_DAB["transformer"] = {**NESTED, "dropout": 0.1}
OF_DINO = {
    "num_queries": 6, "transformer": {**NESTED, "feedforward": 16, "dropout": 0.1}, "loss_weights": {"label": 2.0},
    "classification": "focal", "contrastive_denoising": 20, "mixed_query_selection": True, "refined_positions": False,
    "class_proposals": False, "look_forward_twice": False,
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "detr": (
        {"name": "detr", **SMALL, "feedforward": 16, "l1_cost": 4.0, "giou_weight": 1.0, "dense_loss": 0.0},
        {"name": "detr", "num_queries": 6, "transformer": {**NESTED, "feedforward": 16}, "costs": {"l1": 4.0},
         "loss_weights": {"giou": 1.0}},
    ),
    "dab_detr": (
        {"name": "detr", **ANCHORS, "two_stage": True, "denoising": 3, "distinct_queries": 0.0},
        {"name": "dab_detr", **OF_DAB, "two_stage": True, "denoising": 3},
    ),
    "ddq": (
        {"name": "detr", **ANCHORS, "dense_loss": 4.0, "distinct_queries": 0.6, "look_forward_twice": False},
        {"name": "ddq", "num_queries": 6, "transformer": {**NESTED, "dropout": 0.1}, "classification": "mal",
         "stride": 8, "fusion_blocks": 0, "position_bias": False, "dense_loss": 4.0, "duplicate_iou": 0.6},
    ),
    "deformable_detr": (
        {"name": "deformable_detr", **TWO_STAGE, "label_weight": 1.0},
        {"name": "deformable_detr", "num_queries": 6, "transformer": {**NESTED, "feedforward": 16},
         "box_refinement": True, "two_stage": True, "loss_weights": {"label": 1.0}},
    ),
    "deformable_detr, options without effect on predictions": (
        {"name": "deformable_detr", "num_queries": 6, "box_refinement": True, "look_forward_twice": True},
        {"name": "deformable_detr", "num_queries": 6, "box_refinement": True},
    ),
    "dino": (
        {"name": "deformable_detr", **TWO_STAGE, "contrastive_denoising": 20, "mixed_query_selection": True},
        {"name": "dino", **OF_DINO},
    ),
    "denoising groups": (
        {"name": "deformable_detr", **TWO_STAGE, "denoising": 2, "mixed_query_selection": True},
        {"name": "dino", **OF_DINO, "contrastive_denoising": 100},
    ),
    "detr_panoptic": (
        {"name": "detr_panoptic", **SMALL, "mask_weight": 5.0},
        {"name": "detr_panoptic", "detr": {"num_queries": 6, "transformer": NESTED}, "mask_weight": 5.0},
    ),
    "dab_detr_panoptic": (
        {"name": "detr_panoptic", **ANCHORS, "threshold": 0.4},
        {"name": "dab_detr_panoptic", "dab_detr": OF_DAB, "threshold": 0.4},
    ),
    "over those of a recipe": (
        {"name": "ddq", "num_queries": 6, "transformer": {**NESTED, "width": 64}, "width": 32},
        {"name": "ddq", "num_queries": 6, "transformer": NESTED},
    ),
}  # fmt: skip


def config_of(head: dict[str, Any]) -> configs.Config:
    backbone = {"name": "swin", "variant": "nano"}
    values = {"backbone": backbone, "heads": {"boxes": {"weight": 2.0, **head}}, "data": {"name": "scenes"}}
    return configs.from_mapping({**values, "trainer": {"max_steps": 1}})


@pytest.mark.parametrize(("before", "now"), CASES.values(), ids=CASES)
def test_options_are_read_as_those_of_now(before: dict[str, Any], now: dict[str, Any]):
    config = config_of(before)
    with pytest.warns(UserWarning) as caught:
        configs.check_plugins(config)
    assert config == config_of(now) and config.heads["boxes"].weight == 2.0
    [text] = [str(one.message) for one in caught if str(one.message).startswith("heads.boxes")]
    start = f"heads.boxes: options of {before['name']!r} of an earlier version are read as "
    assert text.startswith(start) and yaml.safe_load(text.removeprefix(start).removesuffix(".")) == now
    configs.check_plugins(config)


def test_a_model_is_built_from_options_of_before():
    before, now = CASES["dab_detr"]
    classes = {"detection": (Class("a", 0, (0, 0, 0)),)}
    with pytest.warns(UserWarning, match="are read as"):
        old = build_model(config_of(before), classes)
    assert old.architecture is not None and old.architecture.heads["boxes"].name == "dab_detr"
    assert old.state_dict().keys() == build_model(config_of(now), classes).state_dict().keys()


@pytest.mark.parametrize(
    "head",
    [
        {"name": "detr", **SMALL, "dense_loss": 1.0},
        {"name": "detr", **ANCHORS, "pre_norm": True},
        {"name": "deformable_detr", **TWO_STAGE, "hybrid_queries": 10},
        {"name": "dab_detr", "num_querys": 3},
    ],
)
def test_what_cannot_be_told_is_an_unknown_option(head: dict[str, Any]):
    with pytest.raises(ConfigError, match="is not an option of"):
        configs.check_plugins(config_of(head))
