"""Every head: weights in bfloat16, as of `model.bfloat16()`, train and predict."""

import copy
import functools

import pytest
import torch

from densevit import registry
from densevit.layers.precision import in_float32
from densevit.losses.context import LossContext
from densevit_workbench.testing.head_checks import CHANNELS, STRIDES
from densevit_workbench.testing.head_fixtures import HeadFixture
from tests.heads.cases import CASES


@pytest.mark.integration
@pytest.mark.parametrize("name", CASES)
def test_the_loss_in_bfloat16_is_about_that_in_float32(name: str) -> None:
    case = CASES[name]
    factory = functools.partial(registry.load("heads", case.head), **case.options)
    fixture = HeadFixture(factory, CHANNELS[: case.levels], STRIDES[: case.levels], case.reach)
    head, batch = fixture.build().train(), fixture.batch()
    half = copy.deepcopy(head).bfloat16()
    losses = []
    for each, dtype in ((head, torch.float32), (half, torch.bfloat16)):
        torch.manual_seed(0)
        features = [x.to(dtype) for x in batch.copies()]
        outputs = each(features, batch.padding_mask, batch.targets)
        losses.append(torch.stack([*each.loss(outputs, batch.targets, LossContext()).values()]).sum())
    losses[1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.25)  # matches and points differ
    with torch.no_grad():
        outputs = half.eval()([x.bfloat16() for x in batch.copies()], batch.padding_mask)
    assert len(half.predict(in_float32(outputs), batch.targets)) == len(batch.targets)
