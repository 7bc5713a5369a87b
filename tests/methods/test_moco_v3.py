"""MoCo v3: the loss of the authors' code, and the momentum encoder."""

import pytest
import torch

from densevit.interfaces import LossContext
from tests.methods.pretraining import built, views_of

SMALL = {"image_size": 64, "hidden": 20, "width": 12}


def test_loss_is_algorithm_1() -> None:
    """Row by row in float64: 2 t * -log(exp(q k+ / t) / sum exp(q k / t))."""
    _, method = built("moco_v3", **SMALL, temperature=0.3)
    queries, keys = torch.randn(5, 12), torch.randn(5, 12)
    found = method.contrastive(queries, keys)
    q, k = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (queries, keys))
    expected = -((q @ k.T) / 0.3).log_softmax(1).diagonal().mean()
    assert float(found) == pytest.approx(2 * 0.3 * float(expected), rel=1e-5)


def test_step_compares_each_view_with_the_keys_of_the_other() -> None:
    model, method = built("moco_v3", "resnet", **SMALL)
    model.eval()
    with torch.no_grad():
        for p in method.momentum_encoder.parameters():
            p.add_(0.01 * torch.randn_like(p))
        batch = views_of(64, 64, count=4)
        views = [batch, *batch["other_views"]]
        pixels = [model.normalise(view["images"], view["padding_mask"]) for view in views]
        q = [method.predictor(method.projector(model.backbone(x)[-1].mean((2, 3)))) for x in pixels]
        k = [method.momentum_projector(method.momentum_encoder(x)[-1].mean((2, 3))) for x in pixels]
        expected = method.contrastive(q[0], k[1]) + method.contrastive(q[1], k[0])
        found = method.training_step(model, batch, LossContext())["contrastive"]
    torch.testing.assert_close(found, expected)
    assert not method.momentum_encoder.training
