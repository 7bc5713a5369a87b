"""Averages of methods are exact in half precision, where an update by a small weight would be lost by rounding."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from densevit_methods.moving_average import MovingAverage
from tests.methods.pretraining import built

AVERAGES: dict[str, dict[str, Any]] = {
    "dino": {"local_crops": 0, "prototypes": 24, "global_size": 64, "momentum": 0.99},
    "moco_v3": {"hidden": 16, "width": 8, "image_size": 64, "momentum": 0.99},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_average_follows_small_steps(dtype: torch.dtype) -> None:
    """400 updates by a weight of 0.01 to constant values: 1 - 0.99^400 of the way. In bf16 alone they would stop."""
    student, average = nn.Linear(8, 8).to(dtype), MovingAverage()
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        student.weight.copy_(teacher.weight + 0.1)
    start = teacher.weight.detach().double().clone()
    for _ in range(200):
        average.update(teacher, student, 0.01)
    restored, copied = MovingAverage(), copy.deepcopy(teacher)
    restored.load_state_dict(copy.deepcopy(average.state_dict()))
    for one, module in ((average, teacher), (restored, copied)):
        for _ in range(200):
            one.update(module, student, 0.01)
    moved = (teacher.weight.double() - start) / (student.weight.double() - start)
    expected = 1 - 0.99**400
    rounding = 0.5 * torch.finfo(dtype).eps * 0.5 / 0.1  # of a weight below 0.5
    assert (moved - expected).abs().max() <= rounding + 1e-3
    assert torch.equal(copied.weight, teacher.weight)  # as after a resume


@pytest.mark.parametrize(("name", "average"), [("dino", "teacher.backbone"), ("moco_v3", "projector")])
def test_momentum_rises_by_a_cosine_to_1(name: str, average: str) -> None:
    model, method = built(name, **{**AVERAGES[name], "momentum": 0.9})
    own = next((method.projector if average == "projector" else model.backbone).parameters())
    copied = next(method.get_submodule(average.replace("projector", "momentum_projector")).parameters())
    for progress in (0.0, 0.25, 0.5, 1.0):
        with torch.no_grad():
            own.add_(torch.randn_like(own))
            method.set_progress(progress)
            before = copied.clone()
            method.after_step(model)
        momentum = 1 - 0.1 * (math.cos(math.pi * progress) + 1) / 2
        torch.testing.assert_close(copied, momentum * before + (1 - momentum) * own, rtol=1e-5, atol=1e-6)
    assert torch.equal(copied, before)  # momentum 1
