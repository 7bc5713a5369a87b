"""No operation of a method's training step reads a value from a simulated accelerator."""

import pytest
import torch

from densevit.losses.context import LossContext
from tests.methods.pretraining import batch_of, built, views_of
from tests.strict_device import DEVICE, Accelerator, moved

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
