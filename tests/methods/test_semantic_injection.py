"""Semantic injection: the authors' loss, AIFI's share of the gradients, and the weight that follows from it."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import densevit
from densevit.errors import ConfigError
from densevit.interfaces import LossContext
from densevit_methods.semantic_injection import SemanticInjection
from tests.heads.cases import DFINE
from tests.methods.test_feature_distillation import Patches

pytestmark = pytest.mark.filterwarnings("ignore:method.teacher. no weights")
S = {"gradient_share": (0.10, 0.12), "updates": 132, "final_start": 120 / 132}  # of RT-DETRv4-S


def method_of(**options: Any) -> tuple[Any, SemanticInjection]:
    model = densevit.create_model(
        {"name": "resnet", "depth": 18},
        {"detection": {"name": "dfine", **DFINE, "num_points": (2, 1), "min_stride": 16}},
        classes=["a", "b"],
        pretrained=False,
    )
    method = SemanticInjection(model, {"name": "tests.methods.test_feature_distillation:Patches"}, **options)
    method.teacher = densevit.DenseModel(Patches(16), {}).requires_grad_(False).eval()
    return model.train(), method.train()


def batch() -> Any:
    target = {"boxes": torch.tensor([[4.0, 4, 40, 30]]), "labels": torch.tensor([1]), "size": (64, 96)}
    targets = [{**target, "image_id": i, "original_size": (64, 96)} for i in range(2)]
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    return {"images": images, "padding_mask": torch.zeros(2, 64, 96, dtype=torch.bool), "targets": targets}


def test_loss_is_that_of_the_authors() -> None:
    """1 - cos of a linear layer on AIFI's map and the teacher's features of images averaged over 2 x 2 pixels."""
    model, method = method_of(weight=3.0)
    images, encoder, seen = batch(), model.heads["detection"].encoder, []
    encoder.attention[-1].register_forward_hook(lambda _, __, tokens: seen.append(tokens))
    losses = method.training_step(model, images, LossContext())
    teacher = method.teacher.backbone
    mean, std = (torch.tensor(x)[:, None, None] for x in (teacher.mean, teacher.std))
    target = teacher(F.avg_pool2d((images["images"] / 255 - mean) / std, 2))[-1].flatten(2).transpose(1, 2)
    [projection] = method.projections
    predicted = F.linear(seen[0], projection.weight[..., 0, 0], projection.bias)  # (B, 2 * 3, C)
    expected = 3 * (1 - (F.normalize(predicted, dim=-1) * F.normalize(target, dim=-1)).sum(-1)).mean()
    assert target.shape == predicted.shape == (2, 6, 7) and expected > 0.1
    torch.testing.assert_close(losses["semantic_injection"], expected, rtol=1e-5, atol=1e-6)
    assert "detection/denoising" in losses
    attention = [*encoder.attention.parameters()]
    gradients = [torch.autograd.grad(x, attention, retain_graph=True) for x in (losses["semantic_injection"], expected)]
    torch.testing.assert_close(*gradients)


def test_share_is_that_of_the_l1_norms_of_all_gradients() -> None:
    model, method = method_of(**S)
    torch.stack([*method.training_step(model, batch(), LossContext()).values()]).sum().backward()
    method.after_step(model)
    sums = {
        name: float(p.grad.abs().sum())
        for name, p in nn.ModuleDict({"model": model, "method": method}).named_parameters()
        if p.grad is not None
    }
    expected = sum(x for name, x in sums.items() if ".encoder.attention." in name) / sum(sums.values())
    assert 1e-4 < expected < 0.9 and any("projections" in name for name in sums)
    torch.testing.assert_close(method.share_sum / method.steps, torch.tensor(expected))


# p, weight 5: with p' = 0.12, 5 * 0.12 * 0.95 / (0.05 * 0.88); with p' = 0.10, 5 * 0.10 * 0.70 / (0.30 * 0.90)
@pytest.mark.parametrize(
    ("share", "weight"),
    [(0.05, 12.954545), (0.30, 1.2962963), (0.11, 5.0), (0.001, 50.0), (0.9, 0.5), (0.0, 20.0)],
)
def test_weight_brings_the_share_to_the_other_end_of_its_range(share: float, weight: float) -> None:
    """Once an epoch, as far as the training goes; also of a method that is resumed between two epochs."""
    _, method = method_of(**S)
    method.set_progress(0.0)
    method.share_sum, method.steps = torch.tensor(2 * share), torch.tensor(2.0)
    method.set_progress(0.999 / 132)
    assert float(method.weight) == 5.0
    _, resumed = method_of(**S)
    resumed.load_state_dict(method.state_dict())
    resumed.set_progress(1 / 132)
    assert float(resumed.weight) == pytest.approx(weight) and not resumed.steps
    resumed.share_sum, resumed.steps = torch.tensor(0.11), torch.tensor(1.0)
    resumed.set_progress(120 / 132)
    assert float(resumed.weight) == pytest.approx(weight)
    resumed.set_progress(121 / 132)  # after the first of the last epochs
    assert float(resumed.weight) == 20.0


def test_models_without_such_an_encoder_are_refused() -> None:
    model = densevit.create_model(
        {"name": "resnet", "depth": 18}, {"detection": {"name": "one_stage"}}, classes=["a"], pretrained=False
    )
    with pytest.raises(ConfigError, match=r"0 of the heads \['detection'\] have an encoder.*dfine or rtdetr"):
        SemanticInjection(model, {"name": "tests.methods.test_feature_distillation:Patches"})
    with pytest.raises(ConfigError, match=r"gradient_share is \(0.2, 0.1\)"):
        method_of(gradient_share=(0.2, 0.1))
