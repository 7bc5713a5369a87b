"""DINO: crops, loss and centre of the authors' code, schedules, and the teacher."""

import numpy as np
import pytest
import torch
from torch import nn

from densevit.interfaces import LossContext
from densevit_methods.dino import DINOHead
from tests.methods.pretraining import built, views_of

SMALL = {"local_crops": 2, "global_size": 64, "local_size": 32, "prototypes": 24}


def test_crops_have_their_sizes_and_no_labels() -> None:
    _, method = built("dino", **SMALL)
    image = torch.randint(256, (3, 50, 120), dtype=torch.uint8)
    sample = {"image": image, "targets": {"image_id": 7, "original_size": (50, 120), "size": (50, 120), "depth": 0}}
    crops = [method.transform(None)(sample, np.random.default_rng(seed), {}) for seed in (0, 0, 1)]
    assert [tuple(crop["image"].shape) for crop in crops[0]] == [(3, 64, 64)] * 2 + [(3, 32, 32)] * 2
    assert crops[0][3]["targets"] == {"image_id": 7, "original_size": (50, 120), "size": (32, 32)}
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(crops[0], crops[1], strict=True))
    assert not any(torch.equal(a["image"], b["image"]) for a, b in zip(crops[0], crops[2], strict=True))


def test_loss_and_centre_are_those_of_the_paper() -> None:
    """Algorithm 1 with multi-crop, written out for each image and pair."""
    _, method = built("dino", **SMALL)
    student, teacher, center = torch.randn(4 * 3, 24), torch.randn(2 * 3, 24), torch.randn(24)
    method.center.value.copy_(center)
    found = method.cross_entropy(student, teacher, 0.05)
    t = ((teacher.double() - center) / 0.05).softmax(1).view(2, 3, 24)
    s = (student.double() / 0.1).log_softmax(1).view(4, 3, 24)
    pairs = [-(t[i] * s[j]).sum(1).mean() for i in range(2) for j in range(4) if i != j]
    assert float(found) == pytest.approx(float(sum(pairs)) / 6, rel=1e-5)


def test_step_is_written_out_crop_by_crop() -> None:
    model, method = built("dino", "swin", **SMALL)
    model.eval()
    batch = views_of(64, 64, 32, 32)
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.add_(0.01 * torch.randn_like(p))
        crops = [batch, *batch["other_views"]]
        features = [
            (m.backbone(m.normalise(c["images"], c["padding_mask"]))[-1].mean((2, 3)), h)
            for m, h, group in ((model, method.head, crops), (method.teacher, method.teacher_head, crops[:2]))
            for c in group
        ]
        outputs = [h(x) for x, h in features]
        method.center.value.normal_()
        before = method.center.value.clone()
        expected = method.cross_entropy(torch.cat(outputs[:4]), torch.cat(outputs[4:]), method.temperature(0.05))
        method.set_progress(0.05)
        found = method.training_step(model, batch, LossContext())["cross_entropy"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    center = 0.9 * before + 0.1 * torch.cat(outputs[4:]).mean(0)
    torch.testing.assert_close(method.center.value, center, rtol=1e-4, atol=1e-5)


def test_head_equals_weight_norm_of_pytorch() -> None:
    head = DINOHead(10, 7, hidden=16, bottleneck=5)
    last = nn.utils.parametrizations.weight_norm(nn.Linear(5, 7, bias=False))
    last.parametrizations.weight.original0.data.fill_(1.0)
    last.parametrizations.weight.original1.data.copy_(head.directions)
    x = torch.randn(4, 10)
    torch.testing.assert_close(head(x), last(nn.functional.normalize(head.mlp(x), dim=1)))
    head(x, trained=False).square().sum().backward()
    assert not head.directions.grad.any() and head.mlp[0].weight.grad.any()
    head(x).square().sum().backward()
    assert head.directions.grad.any()


def test_the_temperature_rises_linearly_and_the_teacher_is_saved() -> None:
    model, method = built("dino", **SMALL)
    temperatures = [method.temperature(progress) for progress in (0.0, 0.05, 0.1, 0.7)]
    assert temperatures == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert method.eval_model(model) is method.teacher
