"""Masks of patches: shares, padding, seeds, and the token that replaces pixels."""

import math

import numpy as np
import pytest
import torch

from densevit_methods.patch_masks import (
    MaskToken,
    blockwise_masking,
    mask_patches,
    pixels_of_patches,
    random_masking,
    with_mask_seed,
)
from tests.methods.pretraining import SIZES, batch_of, built


@pytest.mark.parametrize("ratio", [0.6, 0.25, 0.99])
def test_random_masks_have_the_share_and_no_padding(ratio: float) -> None:
    batch = batch_of(*SIZES, (33, 17))
    masked, inside = mask_patches(batch, 8, random_masking(ratio))
    assert masked.shape == inside.shape == (3, 8, 12)
    for i, (height, width) in enumerate((*SIZES, (33, 17))):
        rows, columns = math.ceil(height / 8), math.ceil(width / 8)
        assert masked[i].sum() == masked[i, :rows, :columns].sum() == math.ceil(ratio * rows * columns)
        assert inside[i, :rows, :columns].all() and inside[i].sum() == rows * columns
    pixels = pixels_of_patches(masked, 8, batch["padding_mask"])
    assert not (pixels & batch["padding_mask"]).any()
    expected = np.kron(masked.numpy(), np.ones((8, 8), dtype=bool)) & ~batch["padding_mask"].numpy()
    np.testing.assert_array_equal(pixels.numpy(), expected)


def test_share_of_a_decimal_ratio_is_exact() -> None:
    """0.07 * 100 is 7.000000000000001 in floating point."""
    assert random_masking(0.07)(10, 10, torch.Generator()).sum() == 7


def test_masks_do_not_depend_on_the_batch() -> None:
    together, _ = mask_patches(batch_of(*SIZES), 8, random_masking(0.5))
    batch = batch_of(*SIZES)
    small = {key: value[1:] for key, value in batch.items()}
    small["images"], small["padding_mask"] = small["images"][..., :40, :50], small["padding_mask"][:, :40, :50]
    alone, _ = mask_patches(small, 8, random_masking(0.5))
    assert torch.equal(alone[0], together[1, :5, :7])


def test_seed_of_the_transform_changes_the_mask() -> None:
    def unchanged(sample, generator, types):
        return sample

    sample = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "targets": {"image_id": 0, "size": (64, 64)}}
    transform = with_mask_seed(unchanged)
    masks = []
    for seed in (1, 2, 1):
        made = transform(sample, np.random.default_rng(seed), {})
        assert made["image"] is sample["image"] and "mask_seed" not in sample["targets"]
        batch = {"padding_mask": torch.zeros(1, 64, 64, dtype=torch.bool), "targets": [made["targets"]]}
        masks.append(mask_patches(batch, 8, random_masking(0.5))[0])
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])


def test_blockwise_masks_are_rectangles_up_to_the_share() -> None:
    mask = blockwise_masking(0.4)
    counts = []
    for seed in range(200):
        masked = mask(14, 14, torch.Generator().manual_seed(seed))
        counts.append(int(masked.sum()))
        same = sum(int((masked.diff(dim=axis) == 0).sum()) for axis in (0, 1))
        assert same > 0.7 * 2 * 13 * 14  # blocks: neighbours are mostly equal; half of them at random
    assert max(counts) <= 79 and np.mean(counts) > 65 and min(counts) >= 1  # BEiT: up to 75 of 196
    for rows, columns in ((1, 1), (1, 7), (2, 2)):
        assert 1 <= mask(rows, columns, torch.Generator().manual_seed(0)).sum() <= max(1, 0.4 * rows * columns + 1)


@pytest.mark.parametrize("backbone", ["swin", "vit"])
def test_mask_token_becomes_one_embedding(backbone: str) -> None:
    """All masked patches of a projection of s x s pixels have the same embedding, and others are unchanged."""
    model, _ = built("simmim", backbone)
    module, side = model.backbone, model.backbone.strides[0]
    token = MaskToken(module, 32)
    assert token.token.shape == (3, side, side) and token.token.any()
    pixels = torch.randn(1, 3, 64, 96)
    masked = torch.zeros(1, 64, 96, dtype=torch.bool)
    masked[:, 32:64, :32] = True
    covered = token(pixels, masked)
    assert torch.equal(covered[~masked[:, None].expand_as(covered)], pixels[~masked[:, None].expand_as(pixels)])
    embed = module.patch_embed if backbone == "swin" else module.stem.projection
    cells = embed(covered)[0].flatten(1).T  # (N, C)
    inside = masked[0, ::side, ::side].flatten()
    torch.testing.assert_close(cells[inside], cells[inside][:1].expand(int(inside.sum()), -1))
    torch.testing.assert_close(cells[~inside], embed(pixels)[0].flatten(1).T[~inside])


def test_patches_must_fit_the_stride() -> None:
    with pytest.raises(ValueError, match=r"patch is 24; it must be a multiple of 16, the finest stride of ViT"):
        built("simmim", "vit", patch=24)
