"""Averages of methods are exact in half precision, where an update by a small weight would be lost by rounding."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import LossContext
from densevit_methods.moving_average import Float32Buffer, MovingAverage
from tests.methods.pretraining import built, views_of

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


@pytest.mark.parametrize(
    ("name", "average"), [("dino", "teacher.backbone"), ("moco_v3", "momentum_encoder"), ("moco_v3", "projector")]
)
def test_momentum_rises_by_a_cosine_to_1(name: str, average: str) -> None:
    model, method = built(name, **{**AVERAGES[name], "momentum": 0.9})
    own = next((method.projector if average == "projector" else model.backbone).parameters())
    copied = next(method.get_submodule(average.replace("projector", "momentum_projector")).parameters())
    for progress in (0.0, 0.25, 0.5, 1.0):
        with torch.no_grad():
            own.add_(torch.randn_like(own))
            method.progress, before = progress, copied.clone()
            method.after_step(model)
        momentum = 1 - 0.1 * (math.cos(math.pi * progress) + 1) / 2
        torch.testing.assert_close(copied, momentum * before + (1 - momentum) * own, rtol=1e-5, atol=1e-6)
    assert torch.equal(copied, before)  # momentum 1


def test_buffer_stays_in_float32() -> None:
    module = nn.Sequential(nn.Linear(2, 2), Float32Buffer(torch.tensor([1 / 3])))
    value = module[1].value.clone()
    module.to(torch.bfloat16).half().double()
    assert torch.equal(module[1].value, value) and module[1].value.dtype == torch.float32
    assert module.to("meta")[1].value.device.type == "meta"


@pytest.mark.parametrize("name", AVERAGES)
def test_every_tensor_that_accumulates_in_a_method_is_exact(name: str) -> None:
    """What a step changes without the optimiser is float32, an integer, or the teacher that `MovingAverage` rounds."""
    model, method = built(name, **AVERAGES[name])
    model.to(torch.bfloat16), method.to(torch.bfloat16)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    method.training_step(model, views_of(64, 64), LossContext(progress=0.25))
    method.after_step(model)
    averaged = [part for key, part in method.named_children() if key.startswith(("teacher", "momentum"))]
    teachers = {id(x) for part in averaged for x in part.state_dict(keep_vars=True).values()}
    state: dict[str, Tensor] = method.state_dict(keep_vars=True)
    changed = [key for key, x in state.items() if x.shape != before[key].shape or not torch.equal(x, before[key])]
    inexact = [key for key in changed if state[key].dtype.itemsize < 4 and id(state[key]) not in teachers]
    assert changed and not inexact
    assert sum(isinstance(part, MovingAverage) for part in method.modules()) == len(averaged)
