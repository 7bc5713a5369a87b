"""Every backbone that densevit ships trains under the deformable_detr head, and so does one with a neck."""

import pytest
import torch

from densevit.model import DenseModel, create_head
from tests.heads.detr.test_backbones import BACKBONES, model_of

pytestmark = pytest.mark.integration

DEFORMABLE = {
    "num_queries": 6,
    "transformer": {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 32},
}


@pytest.mark.parametrize("two_stage", [False, True], ids=["learned queries", "two-stage"])
@pytest.mark.parametrize(("name", "options", "neck"), BACKBONES, ids=lambda x: x if isinstance(x, str) else None)
def test_a_backbone_trains_under_deformable_detr_for_two_steps(name, options, neck, two_stage):
    model, batch = model_of(name, options, neck)
    before_head = model.necks["detection"] if neck else model.backbone
    head = create_head(
        "deformable_detr",
        before_head.channels,
        before_head.strides,
        model.heads["detection"].classes,
        **DEFORMABLE,
        box_refinement=two_stage,
        two_stage=two_stage,
    )
    model = DenseModel(model.backbone, {"detection": head}, dict(model.necks)).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = {key: value.clone() for key, value in model.backbone.named_parameters() if value.requires_grad}
    for _ in range(2):
        loss = torch.stack(list(model.loss(model(batch), batch["targets"]).values())).sum()
        assert loss.isfinite()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert len(head.levels.projections) == 4
    after = dict(model.backbone.named_parameters())
    unused = {key for key in before if after[key].grad is None}
    assert all("norm" in key for key in unused), unused  # the norms of features that the head does not use
    assert all(key in unused or not torch.equal(value, after[key]) for key, value in before.items())
    predictions = model.eval().predictions(model(batch), batch["targets"])["detection"]
    assert [len(prediction["boxes"]) for prediction in predictions] == [6, 6]
