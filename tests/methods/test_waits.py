"""Operations of a method's training step that read a value from a simulated accelerator."""

import pytest
import torch

from densevit.losses.context import LossContext
from tests.methods import test_mean_teacher
from tests.methods.pretraining import batch_of, built, views_of
from tests.strict_device import DEVICE, Accelerator, host, moved

PADDED = batch_of((64, 96), (48, 64))
TOKENIZER = {"name": "tests.methods.test_masked_images:Brightness", "stride": 16}
STEPS = {
    "mae, visible tokens": ("mae", "vit", PADDED, {}),
    "mae, masked pixels": ("mae", "swin", PADDED, {}),
    "simmim": ("simmim", "swin", PADDED, {}),
    "beit": ("beit", "vit", PADDED, {"tokenizer": TOKENIZER, "smallest_block": 2}),
    "dino": ("dino", "vit", views_of(64, 64, 32, 32), {}),
    "moco_v3": ("moco_v3", "vit", views_of(64, 64), {}),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_pretraining_does_not_wait(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from densevit.training.loop.device_transfer import on_device

    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # torch's raises for the device
    plugin, backbone, batch, options = STEPS[name]
    model, method = built(plugin, backbone, **options)
    with Accelerator(torch.float64) as accelerator:
        given = on_device(batch, DEVICE)
        moved(model), moved(method)
        accelerator.waits.clear()
        losses = method.training_step(model, given, LossContext())
        torch.stack([*losses.values()]).sum().backward()
        assert not accelerator.waits


@pytest.mark.integration
@pytest.mark.parametrize(("head", "waits"), [("setr", {}), ("dpt", {}), ("one_stage", {"to the CPU": 2})])
def test_mean_teacher_waits_for_numbers_of_objects_only(
    head: str, waits: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After NMS, and above the threshold: each once for all images."""
    from densevit.training.loop.device_transfer import on_device

    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    model, method, batch = test_mean_teacher.built(head, score_threshold=0.02, pixel_threshold=0.085)
    expected = method.training_step(model, batch, LossContext())  # also checks the first batch, which waits
    with Accelerator(torch.float64) as accelerator:
        given = on_device(batch, DEVICE)
        moved(model), moved(method)
        accelerator.waits.clear()
        losses = method.training_step(model, given, LossContext())
        torch.stack([*losses.values()]).sum().backward()
        method.after_step(model)
        assert dict(accelerator.waits) == waits
    for name, value in expected.items():
        torch.testing.assert_close(host(losses[name]).detach(), value.detach(), rtol=1e-4, atol=1e-4)
