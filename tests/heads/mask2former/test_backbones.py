"""Every backbone that densevit ships trains under the mask2former head, and so does one with a neck."""

import pytest
import torch

from densevit.model import DenseModel, create_head
from tests.heads.detr.test_backbones import BACKBONES, model_of

pytestmark = pytest.mark.integration

MASK2FORMER = {
    "num_queries": 6, "transformer": {"width": 32, "num_heads": 2, "decoder_layers": 3, "feedforward": 32},
    "pixel_decoder": {"layers": 1, "feedforward": 32}, "num_points": 256,
}  # fmt: skip


@pytest.mark.parametrize(("name", "options", "neck"), BACKBONES, ids=lambda x: x if isinstance(x, str) else None)
def test_a_backbone_trains_under_mask2former_for_two_steps(name, options, neck):
    model, batch = model_of(name, options, neck)
    batch["targets"][1]["masks"] = batch["targets"][1]["masks"][:0]  # model_of removes its boxes and labels
    before_head = model.necks["detection"] if neck else model.backbone
    classes = model.heads["detection"].classes
    head = create_head("mask2former_instance", before_head.channels, before_head.strides, classes, **MASK2FORMER)
    model = DenseModel(model.backbone, {"detection": head}, dict(model.necks)).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = {key: value.clone() for key, value in model.backbone.named_parameters() if value.requires_grad}
    for _ in range(2):
        losses = model.loss(model(batch), batch["targets"])
        assert list(losses) == [f"detection/{name}" for name in ("label", "mask", "dice", "auxiliary")]
        loss = torch.stack(list(losses.values())).sum()
        assert loss.isfinite()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = dict(model.backbone.named_parameters())
    unused = {key for key in before if after[key].grad is None}
    assert all("norm" in key for key in unused), unused  # the norms of features that the head does not use
    assert all(key in unused or not torch.equal(value, after[key]) for key, value in before.items())
    predictions = model.eval().predictions(model(batch), batch["targets"])["detection"]
    for prediction, (h, w) in zip(predictions, [(64, 96), (50, 75)], strict=True):
        assert prediction["masks"].shape == (6 * len(classes), h, w)
