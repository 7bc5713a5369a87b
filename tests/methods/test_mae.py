"""MAE: dropped tokens, the loss of the authors' code, padding, and other backbones."""

from typing import Any

import torch
from torch import Tensor

from densevit.interfaces import LossContext
from densevit_methods.patch_masks import mask_patches, pixels_of_patches
from tests.methods.pretraining import batch_of, built, normalised

SMALL = {"width": 32, "depth": 2, "num_heads": 4}


def block(module: Any, x: Tensor) -> Tensor:
    """A block of the decoder by PyTorch's attention, for one image (N, C)."""
    attention, y = module.attention, module.norm1(x)
    parts = [attention.query, attention.key, attention.value]
    y, _ = torch.nn.functional.multi_head_attention_forward(
        *[y[:, None]] * 3, x.shape[1], attention.num_heads,
        torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]), None, None, False, 0.0,
        attention.output.weight, attention.output.bias,
    )  # fmt: skip
    x = x + y[:, 0]
    return x + module.mlp(module.norm2(x))


def sines(rows: int, columns: int, channels: int) -> Tensor:
    """MAE's positions: sines and cosines of the column, then of the row."""
    frequencies = 10000.0 ** -(torch.arange(channels // 4).double() / (channels // 4))
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
    angles = places[:, :, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).float()


def authors_loss(pixels: Tensor, predicted: Tensor, masked: Tensor, patch: int) -> Tensor:
    """As in the authors' code, for one image without padding: mean over the masked patches, unbiased variance.

    pixels: (3, H, W), predicted: (N, 3 * patch^2) in the order of channels, rows, columns; masked: (N,).
    """
    x = torch.nn.functional.unfold(pixels[None], patch, stride=patch)[0].T
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6) ** 0.5
    return ((predicted - x).square().mean(1) * masked).sum() / masked.sum()


def test_vit_encodes_the_visible_tokens_of_each_image_alone() -> None:
    """Image by image: select, run timm-like blocks, fill with mask tokens, decode. 64 x 96 and a padded 48 x 64."""
    model, method = built("mae", "vit", mask_ratio=0.4, **SMALL)
    vit = model.eval().backbone
    assert method.mask_pixels is None
    sizes = ((64, 96), (48, 64))
    batch = batch_of(*sizes)
    masked, inside = mask_patches(batch, 16, method.masking)
    pixels = normalised(model, batch).float()
    with torch.no_grad():
        found = method.validation_losses(model, batch)
        cells, first = vit.embed(vit.stem(pixels)[1])
        expected, counts = [], []
        for i, (height, width) in enumerate(sizes):
            visible = (inside[i] & ~masked[i]).flatten()
            x = torch.cat([cells[i, :first], cells[i, first:][visible]])[None]
            for module in vit.blocks:
                x = module(x, (4, 6))
            x = method.embed(vit.norm(x))[0]
            tokens = method.mask_token.repeat(24, 1)
            tokens[visible] = x[first:]
            tokens = tokens + sines(4, 6, 32)
            x = torch.cat([x[:first], tokens[inside[i].flatten()]])
            for module in method.blocks:
                x = block(module, x)
            predicted = method.pixels(method.norm(x[first:]))
            own = masked[i][inside[i]]
            expected.append(authors_loss(pixels[i, :, :height, :width], predicted, own, 16))
            counts.append(own.sum())
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
        loss = method.training_step(model, batch, LossContext())["reconstruction"]
    mean = sum(x * n for x, n in zip(expected, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(loss, mean, rtol=1e-4, atol=1e-5)


def test_other_backbones_get_masked_pixels() -> None:
    model, method = built("mae", "swin", **SMALL)
    model.eval()
    batch = batch_of((64, 96))
    masked, _ = mask_patches(batch, 32, method.masking)
    assert masked.sum() == 5  # of 2 x 3, at a ratio of 0.75
    pixels = normalised(model, batch).float()
    with torch.no_grad():
        covered = pixels_of_patches(masked, 32, batch["padding_mask"])
        tiles = method.mask_pixels.token.repeat(1, 16, 24)
        feature = model.backbone(torch.where(covered[:, None], tiles, pixels))[-1]
        x = method.embed(feature[0].flatten(1).T) + sines(2, 3, 32)
        for module in method.blocks:
            x = block(module, x)
        expected = authors_loss(pixels[0], method.pixels(method.norm(x)), masked[0].flatten(), 32)
        found = method.validation_losses(model, batch)
    torch.testing.assert_close(found, expected[None], rtol=1e-4, atol=1e-5)
