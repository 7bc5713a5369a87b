"""MoCo v3: the loss of the authors' code, gathered features, the momentum encoder, and short trainings."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from densevit.errors import ConfigError
from densevit.interfaces import LossContext
from tests.methods.pretraining import built, train, views_of

SMALL = {"image_size": 64, "hidden": 20, "width": 12}


def test_loss_is_algorithm_1() -> None:
    """Row by row in float64: 2 t * -log(exp(q k+ / t) / sum exp(q k / t))."""
    _, method = built("moco_v3", **SMALL, temperature=0.3)
    queries, keys = torch.randn(5, 12), torch.randn(5, 12)
    found = method.contrastive(queries, keys)
    q, k = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (queries, keys))
    total = 0.0
    for i in range(5):
        scores = [float(q[i] @ k[j]) / 0.3 for j in range(5)]
        total -= scores[i] - math.log(sum(math.exp(score) for score in scores))
    assert float(found) == pytest.approx(2 * 0.3 * total / 5, rel=1e-5)


@pytest.mark.parametrize("backbone", ["swin", "vit", "resnet"])
def test_step_compares_each_view_with_the_keys_of_the_other(backbone: str) -> None:
    model, method = built("moco_v3", backbone, **SMALL)
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
        found = method.training_step(model, batch, LossContext(progress=0.25))["contrastive"]
    torch.testing.assert_close(found, expected)
    assert method.progress == 0.25
    assert not method.momentum_encoder.training


def test_mlps_are_those_of_the_paper() -> None:
    """Three and two layers; batch norm after each, the last without scale, on the statistics of the batch."""
    _, method = built("moco_v3", **SMALL)
    x = torch.randn(6, method.projector[0].in_features, dtype=torch.float64)
    expected, module = x, method.double().projector
    linears = [layer.weight for layer in module if isinstance(layer, torch.nn.Linear)]
    scales = [layer for layer in module if isinstance(layer, torch.nn.BatchNorm1d)]
    assert len(linears) == 3 and len([m for m in method.predictor if isinstance(m, torch.nn.Linear)]) == 2
    for i, (weight, norm) in enumerate(zip(linears, scales, strict=True)):
        y = expected @ weight.T
        y = (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt()
        expected = y if i == 2 else (y * norm.weight + norm.bias).relu()
    torch.testing.assert_close(module.float()(x.float()), expected.float(), rtol=1e-4, atol=1e-4)
    assert not any(layer.bias is not None for layer in module if isinstance(layer, torch.nn.Linear))


def test_momentum_encoder_is_the_average() -> None:
    model, method = built("moco_v3", **SMALL, momentum=0.8)
    pairs = [
        (next(model.backbone.parameters()), next(method.momentum_encoder.parameters())),
        (next(method.projector.parameters()), next(method.momentum_projector.parameters())),
    ]
    with torch.no_grad():
        for own, _ in pairs:
            own.add_(torch.randn_like(own))
        before = [average.clone() for _, average in pairs]
        method.progress = 0.5
        method.after_step(model)
    for (own, average), old in zip(pairs, before, strict=True):
        torch.testing.assert_close(average, 0.9 * old + 0.1 * own)  # half of the way from 0.8 to 1


def test_every_parameter_in_use_gets_a_gradient() -> None:
    model, method = built("moco_v3", **SMALL)
    method.training_step(model, views_of(64, 64), LossContext())["contrastive"].backward()
    for name, p in method.named_parameters():
        assert (p.grad is not None) == p.requires_grad == (not name.startswith("momentum_")), name


@pytest.mark.integration
@pytest.mark.parametrize("backbone", ["swin", "vit"])
def test_training(backbone: str, tmp_path: Path) -> None:
    run = train("moco_v3", backbone, tmp_path, **SMALL)
    assert all(name.startswith("backbone.") for name in load_file(run.path / "model.safetensors"))


def test_one_image_is_an_error() -> None:
    model, method = built("moco_v3", **SMALL)
    with pytest.raises(ConfigError, match=r"Fix: set data\.batch_size to 2"):
        method.training_step(model, views_of(64, 64, count=1), LossContext())
    with pytest.raises(ValueError, match="temperature 0"):
        built("moco_v3", temperature=0.0)
