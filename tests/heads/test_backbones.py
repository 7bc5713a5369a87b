"""Every backbone and neck that densevit ships trains under a head; each pair of another kind occurs once."""

from typing import Any

import pytest
import torch

from densevit import registry
from densevit.data.loading.batch_sampler import collate
from densevit.interfaces import Batch
from densevit.model import DenseModel, build_backbone, create_head
from densevit_scenes.dataset import Scenes
from tests.heads.cases import CASES

pytestmark = pytest.mark.integration

PAIRS: list[tuple[str, str, dict[str, Any], str | None]] = [
    ("dab_detr, all extensions", "swin", {"variant": "nano", "window_size": 4}, None),
    ("rtdetr", "swin", {"variant": "nano", "version": 2, "window_size": 8, "stem": "conv"}, "fpn"),
    ("detr_panoptic", "vit", {"variant": "nano", "patch_size": 16}, None),
    ("dfine", "vit", {"variant": "nano", "stem": "conv", "class_token": False}, "simple_pyramid"),
    ("mask2former_instance", "mit", {"variant": "b0"}, None),
    ("setr, mla", "mvit", {"variant": "nano"}, None),
    ("deformable_detr, two-stage", "resnet", {"depth": 18, "norm": "group"}, None),
    ("faster_rcnn", "resnet", {"depth": 18}, None),
    ("dab_detr", "resnet", {"depth": 50, "dilation": True, "norm": "frozen", "frozen_stages": 2}, "fpn"),
    ("ddq", "timm", {"model": "convnext_atto"}, None),
    ("dpt, sigmoid", "vit", {"variant": "nano", "patch_size": 14, "readout": "add"}, None),
]  # fmt: skip


def model_of(head: str, name: str, options: dict[str, Any], neck: str | None) -> tuple[DenseModel, Batch]:
    """The model, and images of different sizes, one without objects."""
    case = CASES[head]
    kind = registry.load("heads", case.head)
    panoptic = "panoptic" in kind.needs
    images = [
        Scenes("train", size, train_length=4, panoptic=panoptic, masks="masks" in kind.needs)[i]
        for i, size in enumerate([(64, 96), (50, 75)])
    ]
    for sample in images:
        size = tuple(sample["image"].shape[1:])
        sample["targets"] = {key: sample["targets"][key] for key in kind.needs}
        sample["targets"].update(image_id=size[0], size=size, original_size=(2 * size[0], size[1]))
    bare = images[1]["targets"]
    bare |= {key: bare[key][:0] for key in ("boxes", "labels", "masks") if key in bare}
    if panoptic:
        bare["panoptic"].fill_(-1)
    backbone = build_backbone(name, **options)
    channels, strides, necks = backbone.channels, backbone.strides, {}
    if neck is not None:
        necks["own"] = registry.create("necks", neck, channels, strides, options={"width": 32}, where="neck")
        channels, strides = necks["own"].channels, necks["own"].strides
    classes = () if kind.task == "depth" else Scenes("train", panoptic=panoptic).classes[kind.task]
    model = DenseModel(backbone, {"own": create_head(case.head, channels, strides, classes, **case.options)}, necks)
    return model.train(), collate(images, model.multiple)


@pytest.mark.parametrize(("head", "name", "options", "neck"), PAIRS, ids=lambda x: x if isinstance(x, str) else None)
def test_a_backbone_trains_under_a_head(head, name, options, neck):
    model, batch = model_of(head, name, options, neck)
    before = {key: value.clone() for key, value in model.backbone.named_parameters() if value.requires_grad}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        losses = model.loss(model(batch), batch["targets"])
        assert all(value.isfinite() for value in losses.values())
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimiser.step()
    after = dict(model.backbone.named_parameters())
    unused = {key for key in before if after[key].grad is None}
    assert all("norm" in key or "pos" in key or "rel" in key for key in unused), unused  # of features left out
    assert before and all(key in unused or not torch.equal(value, after[key]) for key, value in before.items())
    predictions = model.eval().predictions(model(batch), batch["targets"])["own"]
    for found, (h, w) in zip(predictions, [(128, 96), (100, 75)], strict=True):
        for key in ("masks", "panoptic", "semantic", "depth", "inverse_depth"):
            assert key not in found or found[key].shape[-2:] == (h, w)
        boxes = found.get("boxes", torch.zeros(1, 4))
        assert len(boxes) or "panoptic" in found
        assert (boxes >= 0).all() and (boxes <= torch.tensor([w, h, w, h]) + 1e-3).all()


def test_no_backbone_and_no_neck_is_missing():
    for group, column in (("backbones", 1), ("necks", 3)):
        built_in = {p.name for p in registry.find(group).values() if p.value.startswith(f"densevit_{group}.")}
        assert built_in <= {case[column] for case in PAIRS}
