"""Every backbone that densevit ships trains under the dfine head, and so does one with a neck."""

import pytest
import torch

from densevit.model import DenseModel, create_head
from tests.heads.detr.test_backbones import BACKBONES, model_of

pytestmark = pytest.mark.integration

DFINE = {
    "num_queries": 6,
    "fusion_blocks": 1,
    "num_points": (2, 2, 1),
    "encoder": {"width": 16, "feedforward": 16, "expansion": 0.5},
    "transformer": {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 32},
}


@pytest.mark.parametrize(("name", "options", "neck"), BACKBONES, ids=lambda x: x if isinstance(x, str) else None)
def test_a_backbone_trains_under_dfine(name, options, neck):
    model, batch = model_of(name, options, neck)
    before_head = model.necks["detection"] if neck else model.backbone
    classes = model.heads["detection"].classes
    head = create_head("dfine", before_head.channels, before_head.strides, classes, **DFINE)
    model = DenseModel(model.backbone, {"detection": head}, dict(model.necks)).train()
    loss = torch.stack(list(model.loss(model(batch), batch["targets"]).values())).sum()
    assert loss.isfinite()
    loss.backward()
    unused = {name for name, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None}
    assert all("norm" in name for name in unused), unused  # the norms of features that the head does not use
    predictions = model.eval().predictions(model(batch), batch["targets"])["detection"]
    assert [len(prediction["boxes"]) for prediction in predictions] == [6, 6]
