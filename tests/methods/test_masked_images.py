"""Masks of patches, and the losses of SimMIM and BEiT on them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from densevit.errors import ConfigError, PluginError
from densevit.interfaces import LossContext
from densevit_methods.patch_masks import (
    mask_patches,
    pixels_of_patches,
    random_masking,
    with_mask_seed,
)
from tests.methods.pretraining import SIZES, batch_of, built, normalised


@pytest.mark.parametrize("ratio", [0.6, 0.99])
def test_random_masks_have_the_share_and_no_padding(ratio: float) -> None:
    sizes = (*SIZES, (33, 17))
    batch = batch_of(*sizes)
    masked, inside = mask_patches(batch, 8, random_masking(ratio))
    assert masked.shape == inside.shape == (3, 8, 12)
    for i, (height, width) in enumerate(sizes):
        rows, columns = math.ceil(height / 8), math.ceil(width / 8)
        assert masked[i].sum() == masked[i, :rows, :columns].sum() == math.ceil(ratio * rows * columns)
        assert inside[i, :rows, :columns].all() and inside[i].sum() == rows * columns
    pixels = pixels_of_patches(masked, 8, batch["padding_mask"])
    expected = np.kron(masked.numpy(), np.ones((8, 8), dtype=bool)) & ~batch["padding_mask"].numpy()
    np.testing.assert_array_equal(pixels.numpy(), expected)
    assert random_masking(0.07)(10, 10, torch.Generator()).sum() == 7  # 0.07 * 100 is 7.000000000000001 in binary


def test_masks_depend_on_the_image_and_the_seed_of_the_transform_only() -> None:
    together, _ = mask_patches(batch_of(*SIZES), 8, random_masking(0.5))
    small = {key: value[1:] for key, value in batch_of(*SIZES).items()}
    small["images"], small["padding_mask"] = small["images"][..., :40, :50], small["padding_mask"][:, :40, :50]
    alone, _ = mask_patches(small, 8, random_masking(0.5))
    assert torch.equal(alone[0], together[1, :5, :7])
    sample = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "targets": {"image_id": 0, "size": (64, 64)}}
    transform = with_mask_seed(lambda sample, generator, types: sample)
    masks = []
    for seed in (1, 2, 1):
        made = transform(sample, np.random.default_rng(seed), {})
        assert made["image"] is sample["image"] and "mask_seed" not in sample["targets"]
        batch = {"padding_mask": torch.zeros(1, 64, 64, dtype=torch.bool), "targets": [made["targets"]]}
        masks.append(mask_patches(batch, 8, random_masking(0.5))[0])
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])


def covered_by(token: Tensor, pixels: Tensor, masked: Tensor, side: int) -> Tensor:
    """Images whose masked pixels are those of the token, which is repeated."""
    tiles = token.detach().repeat(1, pixels.shape[2] // side, pixels.shape[3] // side)
    return torch.where(masked[:, None], tiles, pixels.float())


@pytest.mark.parametrize("backbone", ["swin", "vit"])
def test_loss_of_simmim_is_the_mean_error_of_masked_values(backbone: str) -> None:
    """As the authors': sum(|x - y| * mask) / sum(mask) / 3, here written out per image."""
    model, method = built("simmim", backbone)
    model.eval()
    batch = batch_of(*SIZES)
    pixels = normalised(model, batch)
    patches, _ = mask_patches(batch, 32, method.masking)
    masked = pixels_of_patches(patches, 32, batch["padding_mask"])
    with torch.no_grad():
        covered = covered_by(method.mask_token.token, pixels, masked, model.backbone.strides[0])
        predicted = torch.nn.functional.pixel_shuffle(
            torch.nn.functional.conv2d(model.backbone(covered)[-1], method.decoder[0].weight, method.decoder[0].bias),
            model.backbone.strides[-1],
        )
        errors = (predicted.double() - pixels).abs()
        expected = (errors * masked[:, None]).sum() / masked.sum() / 3
        found = method.training_step(model, batch, LossContext())["reconstruction"]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        each = torch.stack([errors[i][:, masked[i]].mean() for i in range(2)])
        torch.testing.assert_close(method.validation_losses(model, batch).double(), each, rtol=1e-5, atol=1e-6)


# ---- BEiT ----


class Brightness(nn.Module):
    """The mean brightness of a cell in `vocabulary` steps."""

    def __init__(self, stride: int, vocabulary: int = 8, crop: int = 0) -> None:
        super().__init__()
        self.stride, self.vocabulary, self.crop = stride, vocabulary, crop
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        images = nn.functional.pad(images, (0, -width % self.stride, 0, -height % self.stride))
        mean = nn.functional.avg_pool2d(self.weight * images.mean(1), self.stride)
        spread = ((mean - 0.5) * 40 + self.vocabulary / 2).clamp(0, self.vocabulary - 1)
        return spread.long()[:, self.crop :]


@pytest.mark.parametrize(("backbone", "stride"), [("vit", 16), ("swin", 32)])
def test_loss_of_beit_is_the_cross_entropy_of_masked_tokens(backbone: str, stride: int) -> None:
    """Patch by patch: -log softmax of the token of the unmasked image. The tokenizer is frozen."""
    model, method = built(
        "beit", backbone, tokenizer={"name": f"{__name__}:Brightness", "stride": stride}, smallest_block=2
    )
    model.eval()
    batch = batch_of(*SIZES)
    masked, _ = mask_patches(batch, stride, method.masking)
    index = len(model.backbone.strides) - 1 - model.backbone.strides[::-1].index(stride)
    cells = torch.nn.functional.avg_pool2d(batch["images"].double().mean(1) / 255, stride)
    tokens = ((cells - 0.5) * 40 + 4).clamp(0, 7).long()
    assert len(tokens.unique()) > 2
    with torch.no_grad():
        inside = pixels_of_patches(masked, stride, batch["padding_mask"])
        covered = covered_by(method.mask_token.token, normalised(model, batch), inside, model.backbone.strides[0])
        feature = model.backbone(covered)[index]
        each: list[list[float]] = [[], []]
        for i, row, column in masked.nonzero().tolist():
            logits = method.classifier.weight @ feature[i, :, row, column] + method.classifier.bias
            each[i].append(float(logits.logsumexp(0) - logits[tokens[i, row, column]]))
        found = method.validation_losses(model, batch)
    loss = method.training_step(model, batch, LossContext())["cross_entropy"]
    assert found.tolist() == pytest.approx([sum(x) / len(x) for x in each], rel=1e-4)
    assert float(loss.detach()) == pytest.approx(sum(map(sum, each)) / sum(map(len, each)), rel=1e-4)
    loss.backward()
    assert method.tokenizer.weight.grad is None and method.mask_token.token.grad.any()
    assert not method.tokenizer.training
    assert not any(name.startswith("tokenizer") for name in method.state_dict())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "dalle"}, ConfigError, r"method\.tokenizer\.name is 'dalle'; a class as module:Class"),
        ({"name": "torch.nn:Identity"}, PluginError, "no vocabulary and no stride"),
        ({"stride": 14}, ConfigError, r"tokens of 14 pixels, but the features of Swin have strides \[4, 8, 16, 32\]"),
        ({"stride": 16, "crop": 1}, PluginError, r"tokens of shape \(2, 3, 6\).*\(2, 4, 6\) is expected"),
    ],
)
def test_wrong_tokenizers_are_errors(options: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        model, method = built("beit", tokenizer={"name": f"{__name__}:Brightness", **options})
        method.training_step(model, batch_of(*SIZES), LossContext())
