"""Every backbone that densevit ships trains under the detr head, and so does one with a neck."""

from typing import Any

import pytest
import torch

from densevit import registry
from densevit.data.loading.batch_sampler import collate
from densevit.interfaces import Batch
from densevit.model import DenseModel, build_backbone, create_head
from densevit_scenes.dataset import Scenes

pytestmark = pytest.mark.integration

BACKBONES: list[tuple[str, dict[str, Any], str | None]] = [
    ("swin", {"variant": "nano", "window_size": 4}, None),
    ("swin", {"variant": "nano", "version": 2, "window_size": 8, "stem": "conv"}, "fpn"),
    ("vit", {"variant": "nano", "patch_size": 16}, None),
    ("vit", {"variant": "nano", "patch_size": 16, "stem": "conv", "class_token": False}, "simple_pyramid"),
    ("mit", {"variant": "b0"}, None),
    ("mvit", {"variant": "nano"}, None),
    ("mvit", {"variant": "nano", "version": 1, "stem": "conv"}, None),
    ("resnet", {"depth": 18, "norm": "group"}, None),
    ("resnet", {"depth": 50, "dilation": True, "norm": "frozen", "frozen_stages": 2}, "fpn"),
    ("timm", {"model": "convnext_atto"}, None),
]
DETR = {
    "num_queries": 6,
    "transformer": {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 32},
    "extensions": {"stride": 16, "dense_loss": 1.0},
}


def model_of(name: str, options: dict[str, Any], neck: str | None) -> tuple[DenseModel, Batch]:
    """The model, and images of different sizes, one without objects."""
    images = [Scenes("train", image_size=size, train_length=4)[i] for i, size in enumerate([(64, 96), (50, 75)])]
    images[1]["targets"].update(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    for sample in images:
        size = tuple(sample["image"].shape[1:])
        sample["targets"].update(size=size, original_size=size)
    classes = Scenes("train").classes["detection"]
    backbone = build_backbone(name, **options)
    channels, strides, necks = backbone.channels, backbone.strides, {}
    if neck is not None:
        necks["detection"] = registry.create("necks", neck, channels, strides, options={"width": 32}, where="neck")
        channels, strides = necks["detection"].channels, necks["detection"].strides
    head = create_head("dab_detr", channels, strides, classes, **DETR)
    model = DenseModel(backbone, {"detection": head}, necks)
    return model.train(), collate(images, model.multiple)


@pytest.mark.parametrize(("name", "options", "neck"), BACKBONES, ids=lambda x: x if isinstance(x, str) else None)
def test_a_backbone_trains_under_detr_for_two_steps(name, options, neck):
    model, batch = model_of(name, options, neck)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = {key: value.clone() for key, value in model.backbone.named_parameters() if value.requires_grad}
    for _ in range(2):
        loss = torch.stack(list(model.loss(model(batch), batch["targets"]).values())).sum()
        assert loss.isfinite()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = dict(model.backbone.named_parameters())
    assert before
    changed = [
        key for key, value in before.items() if after[key].grad is not None and not torch.equal(value, after[key])
    ]
    unused = {key for key in before if after[key].grad is None}
    assert all("norm" in key for key in unused), unused  # the norms of features that the head does not use
    assert len(changed) + len(unused) == len(before)
    predictions = model.eval().predictions(model(batch), batch["targets"])["detection"]
    assert [len(prediction["boxes"]) for prediction in predictions] == [6, 6]


def test_no_backbone_and_no_neck_is_missing():
    for group, column in (("backbones", 0), ("necks", 2)):
        built_in = {p.name for p in registry.find(group).values() if p.value.startswith(f"densevit_{group}.")}
        assert built_in <= {case[column] for case in BACKBONES}
