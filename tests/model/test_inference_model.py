"""A model made from a model is that model in all but its heads; a model takes its channels from its backbone."""

from typing import Any

import pytest
import torch
from torch import Tensor

import densevit
from densevit.channels import Channels
from densevit.config import DataSection
from densevit.interfaces import Licences
from densevit.model import DenseModel

HEAD = {"name": "setr", "decoder": "naive", "width": 8, "norm": "group", "auxiliary": []}
OF_HEADS = ("heads", "necks", "log_variances", "classes", "score_thresholds", "target_types", "loss_weights")


def _predictor(channels: Channels) -> DenseModel:
    torch.manual_seed(0)
    count = len(channels.names)
    section = {"name": "vit", "variant": "nano", "mean": [0.4] * count, "std": [0.25] * count, "channels": channels}
    heads = {
        "a": {**HEAD, "loss_weight": "learned"},
        "b": {**HEAD, "loss_weight": 2.0, "neck": {"name": "fpn", "width": 16}},
    }
    predictor = densevit.create_model(section, heads, classes={"a": ["x", "y"], "b": ["x", "y", "z"]}).eval()
    predictor.licences, predictor.score_thresholds = {"here": Licences("MIT")}, {"a": 0.25, "b": 0.75}
    predictor.training_data = DataSection(name="x")
    return predictor


def _batch(model: DenseModel) -> Any:
    images = torch.rand(1, len(model.channels.names), 64, 64) * 300 - 50
    if model.channels.dtype == "float32":
        images[:, :, :20, :20] = torch.nan
    images = images if model.channels.dtype == "float32" else images.clamp(0).to(getattr(torch, model.channels.dtype))
    targets = [{"image_id": 0, "size": (64, 64), "original_size": (64, 64)}]
    return {"images": images, "padding_mask": torch.zeros(1, 64, 64, dtype=torch.bool), "targets": targets}


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other


@pytest.mark.parametrize(
    "channels",
    (
        Channels(("red", "green", "blue"), "float32", ((0.0, 100.0),) * 3, nodata=-1.0),
        Channels(("a", "b", "c", "d", "e"), "uint16", ((0.0, 1000.0),) * 5, display=("c",)),
        Channels(),
    ),
    ids=lambda channels: f"{len(channels.names)}-{channels.dtype}",
)
@torch.no_grad()
def test_a_part_of_a_model_is_that_model_with_fewer_heads(channels):
    model = _predictor(channels)
    part, batch = model.with_heads({"b"}), _batch(model)
    expected, found = model(batch)["b"], part(batch)["b"]
    assert all(torch.equal(x, found[key]) for key, x in expected.items())
    assert not any(x.isnan().any() for x in found.values())
    image = batch["images"][0]
    assert torch.equal(part.predict(image).semantic, model.predict(image)["b"].semantic)
    for key, value in vars(model).items():
        if not key.startswith("_") and key not in (*OF_HEADS, "sections", "inference"):
            assert _equal(value, getattr(part, key)), key
    for key in OF_HEADS:
        assert dict(getattr(part, key)) == {name: x for name, x in getattr(model, key).items() if name == "b"}, key
    assert part.sections is not None and model.sections is not None
    assert part.sections.backbone is model.sections.backbone
    assert part.sections.heads == {"b": model.sections.heads["b"]}
    for (name, x), (other, y) in zip(model.named_buffers(), part.named_buffers(), strict=True):
        assert name == other and x is y
    assert [*model.heads] == ["a", "b"] and [*model.with_heads({"b", "a"}).heads] == ["a", "b"]
    assert [*map(id, model.with_heads(()).parameters())] == [*map(id, model.backbone.parameters())]
    assert not any(module.training for module in part.modules())
