"""Queries that are tokens beside the cells of a plain transformer, with masked attention in training (EoMT, PMT)."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, LastBlocks, Outputs
from densevit.layers.norms import LayerNorm2d
from densevit.set_prediction.limits import MAX_LAYERS, check_counts
from densevit.set_prediction.mask_classification import MaskClassification
from densevit.set_prediction.queries import MaskQueries, QueryTable, mask_logits
from densevit_heads.parts.mask_annealing import mask_probabilities

EPS = 1e-6


class MaskTokens(MaskClassification):
    """Base of heads whose queries are tokens of transformer blocks (EoMT, Kerssies et al. 2025, section 3).

    In training, masks and classes are also predicted before each block, and a query attends to the foreground of its
    mask only; the share of masked queries falls from 1 to 0 during training (`mask_annealing.py`). In evaluation
    attention is not masked. Padding is a part of the image, as in the authors' code.

    num_blocks: the number of blocks with queries. num_points: the number of points at which masks are compared, in
    matching and in losses.
    """

    mask_probability: Tensor
    first_duration: ClassVar[float | None] = None  # a parameter of `mask_probabilities`

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int,
        num_blocks: int,
        num_points: int,
    ) -> None:
        width, stride = channels[-1], strides[-1]
        upscalings = max(1, int(math.log2(stride)) - 2)  # to stride 4; to 7 for patches of 14
        super().__init__(channels, strides, classes, num_queries, stride // 2**upscalings, num_points)
        check_counts({"num_blocks": num_blocks}, 1, MAX_LAYERS)
        self.queries = QueryTable(num_queries, width)
        self.label_head = nn.Linear(width, len(classes) + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.upscale = nn.Sequential(*(Upscaling(width) for _ in range(upscalings)))
        self.register_buffer("mask_probability", torch.ones(num_blocks), persistent=False)
        self.masked = (True,) * num_blocks  # the blocks with a probability above 0

    def set_progress(self, progress: float) -> None:
        """Sets the probabilities of masked attention from the share of the run that is done."""
        probabilities = mask_probabilities(progress, len(self.masked), self.first_duration)
        self.mask_probability.copy_(torch.tensor(probabilities), non_blocking=True)
        self.masked = tuple(probability > 0 for probability in probabilities)

    def decode(self, last: LastBlocks) -> Outputs:
        """Runs blocks on the queries and the tokens. Returns the outputs of `MaskClassification`, of L = `num_blocks` +
        1 layers in training (before each block and after the last), and of the last layer in evaluation."""
        queries = self.queries.weight.to(last.tokens.dtype).expand(last.tokens.shape[0], -1, -1)
        x = torch.cat([queries, last.tokens], dim=1)  # (B, Q + P + H * W, C)
        layers = []
        for i, block in enumerate(last.blocks):
            bias = None
            if self.training:
                layers.append(self._predict(last.norm(x), last.grid))
                if self.masked[i]:
                    _, embeddings, pixels = layers[-1]
                    foreground = foreground_of(embeddings.detach(), pixels.detach(), last.grid)
                    bias = attention_bias(self._disabled(foreground, self.mask_probability[i]), x)
            x = block(x, bias)
        layers.append(self._predict(last.norm(x), last.grid))
        predictions = MaskQueries(*(torch.stack(values) for values in list(zip(*layers, strict=True))[:2]))
        pixels = torch.stack([pixels for _, _, pixels in layers])  # (L, B, C, h, w)
        outputs: Outputs = {"logits": predictions.logits[-1], "layers": tuple(predictions), "pixels": pixels}
        if not self.training:
            outputs["masks"] = mask_logits(predictions.embeddings[-1], pixels[-1])
        return outputs

    def _predict(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised tokens -> class logits (B, Q, K+1), mask embeddings (B, Q, C) and per-pixel embeddings (B, C, h,
        w)."""
        queries, cells = x[:, : self.num_queries], x[:, x.shape[1] - grid[0] * grid[1] :]
        pixels = self.upscale(cells.transpose(1, 2).unflatten(2, grid))
        return self.label_head(queries), self.mask_head(queries).float(), pixels

    @staticmethod
    def _disabled(foreground: Tensor, probability: Tensor) -> Tensor:
        """Cells that queries attend to, (B, Q, N) bool: with this probability the foreground only, else all cells."""
        free = torch.rand(foreground.shape[:2], device=foreground.device) > probability
        return foreground | free[..., None]


class Upscaling(nn.Sequential):
    """Doubles the resolution: transposed convolution, GELU, depthwise convolution and layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            LayerNorm2d(width, EPS),
        )


def foreground_of(embeddings: Tensor, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Whether a cell is in a query's mask, bilinearly resized to the grid: (B, Q, H * W).

    Resizing is linear: the resized per-pixel embeddings give the resized masks.
    """
    cells = F.interpolate(pixels.float(), size=grid, mode="bilinear", align_corners=False)
    return mask_logits(embeddings, cells).flatten(2) > 0


def attention_bias(attended: Tensor, x: Tensor) -> Tensor:
    """-inf for cells that a query does not attend to, else 0: (B, 1, N, N) for tokens x (B, N, C).

    attended: (B, Q, H * W). The queries are the first tokens and the cells the last. All tokens attend to all non-cell
    tokens.
    """
    (B, N), (Q, cells) = x.shape[:2], attended.shape[1:]
    bias = x.new_zeros(B, Q, cells).masked_fill(~attended, float("-inf"))
    return F.pad(bias, (N - cells, 0, 0, N - Q))[:, None]
