"""Operations of a method's training step that read a value from a simulated accelerator."""

from typing import Any

import pytest
import torch

from densevit.interfaces import Losses, Method
from densevit.losses.context import LossContext
from tests.methods import test_mean_teacher
from tests.methods.pretraining import batch_of, built, views_of
from tests.strict_device import DEVICE, Accelerator, host, moved

PADDED = batch_of((64, 96), (48, 64))
STEPS = {
    "mae, visible tokens": ("mae", "vit", PADDED, {}),
    "mae, masked pixels": ("mae", "swin", PADDED, {}),
    "simmim": ("simmim", "swin", PADDED, {}),
    "beit": (
        "beit",
        "vit",
        PADDED,
        {"tokenizer": {"name": "tests.methods.test_masked_images:Brightness", "stride": 16}, "smallest_block": 2},
    ),
    "dino": ("dino", "vit", views_of(64, 64, 32, 32), {}),
    "moco_v3": ("moco_v3", "vit", views_of(64, 64), {}),
}


def step_on_device(
    model: Any, method: Method, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[Losses, dict[str, int]]:
    """Losses of a step with its backward pass on the simulated device, and how often it waited for each reason."""
    from densevit.training.loop.device_transfer import on_device

    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # torch's raises for the device
    with Accelerator(torch.float64) as accelerator:
        given = on_device(batch, DEVICE)
        moved(model), moved(method)
        accelerator.waits.clear()
        losses = method.training_step(model, given, LossContext())
        torch.stack([*losses.values()]).sum().backward()
        method.after_step(model)
        return losses, dict(accelerator.waits)


@pytest.mark.integration
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_pretraining_does_not_wait(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin, backbone, batch, options = STEPS[name]
    model, method = built(plugin, backbone, **options)
    assert step_on_device(model, method, batch, monkeypatch)[1] == {}


@pytest.mark.integration
@pytest.mark.parametrize(("head", "waits"), [("setr", {}), ("dpt", {}), ("one_stage", {"to the CPU": 2})])
def test_mean_teacher_waits_for_numbers_of_objects_only(
    head: str, waits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After NMS, and above the threshold: each once for all images."""
    model, method, batch = test_mean_teacher.built(head, score_threshold=0.02, pixel_threshold=0.085)
    expected = method.training_step(model, batch, LossContext())  # also checks the first batch, which waits
    losses, counts = step_on_device(model, method, batch, monkeypatch)
    assert counts == waits
    for name, value in expected.items():
        torch.testing.assert_close(host(losses[name]).detach(), value.detach(), rtol=1e-4, atol=1e-4)
