"""Lines at the start of a training: a neck for a head that wants a pyramid, and the rate of a random backbone."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from densevit import config as configs
from densevit.interfaces import Class
from densevit.model import DenseModel, build_from_sections

MASKS = {
    "name": "mask2former_instance", "num_queries": 4, "num_points": 16,
    "transformer": {"width": 32, "num_heads": 2, "decoder_layers": 1, "feedforward": 16},
}  # fmt: skip
PLAIN = {"name": "vit", "variant": "nano"}


def plan_of(values: dict[str, Any], *overrides: str, checkpoint: object = None) -> Any:
    config = configs.from_mapping(
        {"data": {"name": "scenes", "image_size": 32}, "trainer": {"max_images": 32}, **values}, "test", overrides
    )
    model = build_from_sections(config, {"masks": [Class("cell", 1, (0, 0, 0))]})
    budget = SimpleNamespace(images_per_step=16)
    return SimpleNamespace(config=config, model=model, budget=budget, checkpoint=checkpoint)


def test_a_plain_vit_under_a_mask_head_names_the_neck_whose_masks_are_finer() -> None:
    """A cell of stride 16 has the area of 16 cells of stride 4; the printed key gives the printed stride."""
    from densevit.training.run.start_notes import missing_necks

    values = {"backbone": PLAIN, "heads": {"masks": MASKS}}
    plan = plan_of(values)
    assert plan.model.heads["masks"].mask_stride == 16
    [line] = missing_necks(plan)
    assert line == (
        "heads.masks (mask2former_instance): all features of the backbone have stride 16. "
        "heads.masks.neck.name=simple_pyramid gives it features from stride 4 on, 16 times the cells."
    )
    with_neck = plan_of(values, re.search(r"\S+=\S+", line)[0])  # type: ignore[index]
    model: DenseModel = with_neck.model
    assert model.heads["masks"].mask_stride == 4 and not [*missing_necks(with_neck)]


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ({"name": "resnet", "depth": 18}, MASKS),
        (PLAIN, {"name": "setr"}),
        (PLAIN, {"name": "deformable_detr", "min_stride": 16}),
    ],
    ids=["pyramid", "any stride", "stride 16"],
)
def test_no_neck_is_named_where_none_helps(backbone: dict[str, Any], head: dict[str, Any]) -> None:
    from densevit.training.run.start_notes import missing_necks

    assert not [*missing_necks(plan_of({"backbone": backbone, "heads": {"masks": head}}))]


@pytest.mark.parametrize(
    ("optim", "backbone", "checkpoint", "rates"),
    [
        ({"lr": 1e-4, "backbone_lr": 1e-5}, {}, None, ("1e-05", "0.0001")),
        ({"lr": 1e-4, "backbone_lr": 1e-5}, {"weights": "random"}, None, ("1e-05", "0.0001")),
        ({"lr_per_256": 1.6e-3, "backbone_lr": 1e-5}, {}, None, ("1e-05", "0.0001")),  # 16 images per step
        ({"lr": 1e-4, "backbone_lr": 1e-4}, {}, None, ()),
        ({"lr": 1e-4}, {}, None, ()),
        ({"lr": 1e-4, "backbone_lr": 0}, {}, None, ()),
        ({"lr": 1e-4, "backbone_lr": 1e-5}, {"weights": "mine.pth"}, None, ()),
        ({"lr": 1e-4, "backbone_lr": 1e-5}, {}, "a resumed run", ()),
    ],
)
def test_a_random_backbone_below_the_rate_of_the_heads_is_a_line(optim, backbone, checkpoint, rates) -> None:
    from densevit.training.run.start_notes import random_backbone

    values = {"backbone": {**PLAIN, **backbone}, "heads": {"masks": {"name": "setr"}}, "optim": optim}
    lines = [*random_backbone(plan_of(values, checkpoint=checkpoint))]
    assert len(lines) == bool(rates)
    for line in lines:
        assert all(rate in line for rate in rates)
        assert not [*random_backbone(plan_of(values, line.split()[-1].rstrip(".")))]
