"""MAE: masked autoencoders are scalable vision learners (He et al. 2022)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Backbone, Batch, TokenBackbone
from densevit.layers.attention import MultiHeadAttention
from densevit.layers.mlp import FeedForward
from densevit.layers.positions import sine_grid_2d
from densevit.layers.unchanged import evaluation_mode
from densevit_methods.patch_masks import (
    MaskedModelling,
    MaskToken,
    mask_patches,
    pixels_of_patches,
    random_masking,
)


class MAE(MaskedModelling):
    """Encodes the visible patches of an image, and predicts the pixels of masked patches with a small transformer.

    A plain ViT computes the visible patches only (section 3). This needs a `TokenBackbone` with global attention in all
    blocks, positions added to tokens, and tokens that depend on the pixels of their patch only: `vit` with learned or
    sine positions and without a stem. Other backbones, such as Swin, MViT, or a ViT with relative or rotary positions,
    overlapping patches or a stem, need the complete grid. For them a learned patch replaces the pixels of masked
    patches, as in SimMIM (`MaskToken`), which saves no computation. Their patches have the coarsest stride, 32 pixels,
    so that no window of a finer stage sees a part of a masked patch.

    mask_ratio: share of an image's patches, of the coarsest stride, that are masked; 0.75 for a ViT, 0.6 in SimMIM for
        patches of 32 pixels. width, depth, num_heads: the decoder's channels, blocks and attention heads (table 1).
    normalise_patches: pixels of each patch are predicted after subtraction of their mean and division by their standard
        deviation (table 1d).
    """

    def __init__(
        self,
        model: Any,
        mask_ratio: float = 0.75,
        width: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        normalise_patches: bool = True,
    ) -> None:
        super().__init__(model, mask_ratio)
        if depth < 0 or width < 4 or width % 4 or width % num_heads:
            raise ValueError(
                f"width is {width}, num_heads {num_heads}, depth {depth}; a width that is a multiple of 4 and of "
                "num_heads, and a depth of at least 0 are expected."
            )
        backbone = model.backbone
        self.patch, self.normalise_patches = backbone.strides[-1], normalise_patches
        self.masking = random_masking(mask_ratio)
        self.mask_token: nn.Parameter | None = None
        self.mask_pixels: MaskToken | None = None
        if can_drop_tokens(backbone):
            self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        else:
            self.mask_pixels = MaskToken(backbone, self.patch)
        self.embed = nn.Linear(backbone.channels[-1], width)
        self.blocks = nn.ModuleList(DecoderBlock(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, 3 * self.patch**2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def errors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean squared error of each masked patch, 0 elsewhere, and the masked patches, (B, N) each."""
        masked, inside = mask_patches(batch, self.patch, self.masking)
        grid = (masked.shape[1], masked.shape[2])
        padding = batch["padding_mask"]
        pixels = model.normalise(batch["images"], padding)
        if self.mask_pixels is None:
            tokens = self.encode_visible(model.backbone, pixels, (inside & ~masked).flatten(1))
        else:
            covered = self.mask_pixels(pixels, pixels_of_patches(masked, self.patch, padding))
            tokens = self.embed(model.backbone(covered)[-1].flatten(2).transpose(1, 2))  # (B, N, C)
        predicted = self.decode(tokens, grid, inside.flatten(1))
        targets, valid = patch_targets(pixels, padding, self.patch, self.normalise_patches)
        errors = ((predicted.float() - targets).square() * valid).sum(2) / valid.sum(2).clamp(min=1)
        masked = masked.flatten(1).to(errors.device, non_blocking=True)
        return errors * masked, masked

    def encode_visible(self, backbone: Any, pixels: Tensor, visible: Tensor) -> Tensor:
        """Runs the blocks on other tokens and visible cells, and adds mask tokens at the other cells.

        visible: (B, N) bool, on the CPU. Images of a batch may have different numbers of visible cells: fewer are
        filled with other cells, which attention ignores. Returns (B, P + N, width of the decoder).
        """
        depth = backbone.max_last_blocks
        blocks = backbone.encode(pixels, (depth,), False).last_blocks[depth]
        N = visible.shape[1]
        first, cells = blocks.tokens.split([blocks.tokens.shape[1] - N, N], 1)
        counts = visible.sum(1)
        index = visible.float().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]  # (B, V)
        used = torch.arange(index.shape[1]) < counts[:, None]
        bias = key_bias(used, first.shape[1], first.device)
        index, used = (values.to(first.device, non_blocking=True) for values in (index, used))
        x = torch.cat([first, cells.gather(1, index[..., None].expand(-1, -1, cells.shape[2]))], 1)
        for block in blocks.blocks:
            x = block(x, bias)
        first, x = self.embed(blocks.norm(x)).split([first.shape[1], index.shape[1]], 1)
        assert self.mask_token is not None
        token = self.mask_token.to(x.dtype)
        x = torch.where(used[..., None], x, token)
        complete = token.expand(x.shape[0], N, -1).scatter(1, index[..., None].expand_as(x), x)
        return torch.cat([first, complete], 1)

    def decode(self, tokens: Tensor, grid: tuple[int, int], inside: Tensor) -> Tensor:
        """(B, P + N, width) -> the pixels of all patches, (B, N, 3 * patch^2). inside: (B, N), not padding, on
        the CPU.
        """
        P = tokens.shape[1] - inside.shape[1]
        positions = sine_grid_2d(*grid, tokens.shape[2], tokens.device).flatten(0, 1)
        x = tokens + F.pad(positions, (0, 0, P, 0)).to(tokens.dtype)
        bias = key_bias(inside, P, tokens.device)
        for block in self.blocks:
            x = block(x, bias)
        predicted: Tensor = self.pixels(self.norm(x[:, P:]))
        return predicted


class DecoderBlock(nn.Module):
    """Self-attention and an MLP, each after a layer norm, as in ViT."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, num_heads)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x: (B, N, C). bias: added to the scores, (B, 1, 1, N), or None."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, bias)
        return x + self.mlp(self.norm2(x))


def can_drop_tokens(backbone: Backbone) -> bool:
    """Whether the blocks can run on any subset of the tokens: positions are added and each token sees its patch
    only."""
    positions, blocks = getattr(backbone, "positions", None), getattr(backbone, "blocks", ())
    return (
        isinstance(backbone, TokenBackbone)
        and positions in ("learned", "sine1d", "sine2d")
        and backbone.max_last_blocks == len(blocks)
        and _embeds_patches_alone(backbone)
    )


@torch.no_grad()
def _embeds_patches_alone(backbone: Any) -> bool:
    """Whether the first patch's token is the same in two images that differ everywhere else."""
    patch, depth = backbone.strides[-1], backbone.max_last_blocks
    size = backbone.input_size or (3 * patch, 3 * patch)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *size, generator=generator).to(next(backbone.parameters()))
    images[1, :, :patch, :patch] = images[0, :, :patch, :patch]
    with evaluation_mode(backbone):
        tokens = backbone.encode(images, (depth,), False).last_blocks[depth].tokens
    cells = (size[0] // patch) * (size[1] // patch)
    alone, repeated = tokens[:, -cells]
    return torch.equal(alone, repeated)


def key_bias(used: Tensor, first: int, device: torch.device) -> Tensor | None:
    """The bias of attention (B, 1, 1, first + V), -inf for keys (B, V) that are not used; None if all are."""
    if bool(used.all()):
        return None
    bias = torch.zeros(used.shape).masked_fill(~used, -torch.inf)
    return F.pad(bias, (first, 0))[:, None, None].to(device, non_blocking=True)


def patch_targets(pixels: Tensor, padding_mask: Tensor, patch: int, normalised: bool) -> tuple[Tensor, Tensor]:
    """The pixels of each patch, and whether a value is not padding, (B, N, 3 * patch^2) each.

    normalised: subtracts the mean of a patch's pixels and divides by their standard deviation, both without padding.
    """
    height, width = pixels.shape[2:]
    border = (0, -width % patch, 0, -height % patch)
    padding = F.pad(padding_mask, border, value=True)[:, None].expand(-1, 3, -1, -1)
    x, valid = (
        F.pixel_unshuffle(values, patch).flatten(2).transpose(1, 2)
        for values in (F.pad(pixels.float(), border), (~padding).float())
    )
    if normalised:
        count = valid.sum(2, keepdim=True)
        centred = (x - (x * valid).sum(2, keepdim=True) / count.clamp(min=1)) * valid
        variance = centred.square().sum(2, keepdim=True) / (count - 1).clamp(min=1)
        x = centred / (variance + 1e-6).sqrt()
    return x, valid
