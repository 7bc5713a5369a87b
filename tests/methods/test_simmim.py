"""SimMIM: the loss of the authors' code, padding, and short trainings."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from densevit.interfaces import LossContext
from densevit_methods.patch_masks import mask_patches, pixels_of_patches
from tests.methods.pretraining import BACKBONES, SIZES, batch_of, built, normalised, train


@pytest.mark.parametrize("backbone", BACKBONES)
def test_loss_is_the_mean_error_of_masked_values(backbone: str) -> None:
    """As the authors': sum(|x - y| * mask) / sum(mask) / 3, here written out per image."""
    model, method = built("simmim", backbone)
    model.eval()
    batch = batch_of(*SIZES)
    pixels = normalised(model, batch)
    patches, _ = mask_patches(batch, 32, method.masking)
    masked = pixels_of_patches(patches, 32, batch["padding_mask"])
    side = model.backbone.strides[0]
    tiles = method.mask_token.token.detach().repeat(1, 64 // side, 96 // side)
    covered = torch.where(masked[:, None], tiles, pixels.float())
    with torch.no_grad():
        feature = model.backbone(covered)[-1]
        stride = model.backbone.strides[-1]
        weight = method.decoder[0].weight[:, :, 0, 0]
        predicted = torch.einsum("bchw,oc->bohw", feature, weight) + method.decoder[0].bias[:, None, None]
        B, _, h, w = predicted.shape
        predicted = predicted.view(B, 3, stride, stride, h, w).permute(0, 1, 4, 2, 5, 3).reshape(B, 3, 64, 96)
        found = method.training_step(model, batch, LossContext())["reconstruction"]
        errors = (predicted.double() - pixels).abs()
        expected = (errors * masked[:, None]).sum() / masked.sum() / 3
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        each = [errors[i][:, masked[i]].mean() for i in range(2)]
        torch.testing.assert_close(method.validation_losses(model, batch).double(), torch.stack(each), rtol=1e-5,
                                   atol=1e-6)  # fmt: skip


def test_every_parameter_in_use_gets_a_gradient() -> None:
    model, method = built("simmim")
    method.training_step(model, batch_of(*SIZES), LossContext())["reconstruction"].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())
    unused = [name for name, p in model.backbone.named_parameters() if p.grad is None]
    assert unused == [f"feature_norms.{i}.{x}" for i in range(3) for x in ("weight", "bias")]


@pytest.mark.integration
@pytest.mark.parametrize("backbone", ["swin", "vit"])
def test_training(backbone: str, tmp_path: Path) -> None:
    run = train("simmim", backbone, tmp_path)
    assert 0 < run.metrics["method/loss"] < 5
    assert all(name.startswith("backbone.") for name in load_file(run.path / "model.safetensors"))


def test_wrong_options_are_errors() -> None:
    with pytest.raises(ValueError, match="mask_ratio is 1"):
        built("simmim", mask_ratio=1.0)
