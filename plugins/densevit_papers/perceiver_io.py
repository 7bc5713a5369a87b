"""Perceiver IO (Jaegle et al. 2021) as a segmentation head: latents read the features, and queries read the latents."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, DenseHead, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.attention import MultiHeadAttention
from densevit.layers.chunked_argmax import chunked_argmax
from densevit.layers.mlp import FeedForward
from densevit.layers.positions import mask_on_grid
from densevit.losses.class_weights import ClassWeights, Weighting
from densevit.losses.segmentation import cross_entropy, label_counts, label_maps
from densevit.set_prediction.limits import check_classes, check_counts

_MAX = 10_000  # of counts: a typo must not allocate memory until none is left


class PerceiverIO(DenseHead):
    """Semantic segmentation by Perceiver IO on the features of a backbone (Jaegle et al. 2021, section 3).

    Three steps: latents attend to the cells of all feature maps (encode), to each other (process), and one query per
    cell of a map attends to the latents (decode), for the class logits of this cell. The cost is linear in the number
    of cells. Features and Fourier encodings of the cells' centres are concatenated and projected to `width`. Centres
    are in -1 ... 1 of each image without its padding, and padding is masked in attention.

    width: channels of latents, projected features and queries. num_latents: the number of latents. num_layers:
        self-attention layers of the latents, which are repeated `num_blocks` times with the same weights.
    num_heads: the heads of the self-attention. cross_heads: the heads of both cross-attentions.
    feature: number, from 1, of the map whose cells are the queries; the logits have its stride.
    queries: "features": features and positions of the cells, as for optical flow (section 3.2); "positions": the
        positions alone, so that logits depend on the image through the latents only.
    query_residual: adds the queries to the result of their attention, which the paper leaves out for dense outputs.
    num_bands: frequencies per axis of the Fourier encoding, evenly spaced from 1 to the Nyquist frequency of
        `max_resolution` cells per side.
    class_weights: class weights of the cross-entropy, or "balanced": from the frequencies so far (see `ClassWeights`).
    """

    task = "segmentation"
    required_targets = ("semantic",)

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        width: int = 512,
        num_latents: int = 256,
        num_layers: int = 6,
        num_blocks: int = 1,
        num_heads: int = 8,
        cross_heads: int = 1,
        feature: int = 1,
        queries: Literal["features", "positions"] = "features",
        query_residual: bool = False,
        num_bands: int = 64,
        max_resolution: int = 224,
        class_weights: Weighting = None,
    ) -> None:
        super().__init__(channels, strides, classes)
        counts = {"width": width, "num_latents": num_latents, "num_layers": num_layers, "num_blocks": num_blocks}
        counts |= {"num_heads": num_heads, "cross_heads": cross_heads, "num_bands": num_bands}
        for option, number in counts.items():
            if not 1 <= number <= _MAX:
                raise ValueError(f"{option} is {number}; it must be from 1 to {_MAX}.")
        for option, heads in {"num_heads": num_heads, "cross_heads": cross_heads}.items():
            if width % heads:
                raise ValueError(f"width is {width}; it must be a multiple of {option}, {heads}.")
        if not 1 <= feature <= len(channels):
            raise ValueError(f"feature is {feature}; the backbone has {len(channels)} feature maps, numbered from 1.")
        check_counts({"max_resolution": max_resolution}, 2)
        check_classes(classes, "segmentation")
        self.feature_strides, self.feature, self.stride = tuple(strides), feature - 1, strides[feature - 1]
        self.num_blocks, self.num_bands, self.max_resolution = num_blocks, num_bands, max_resolution
        self.class_weights = ClassWeights(len(classes), class_weights)

        encoding = 2 * (2 * num_bands + 1)
        self.inputs = nn.ModuleList(nn.Linear(c + encoding, width) for c in channels)
        self.latents = nn.Parameter(torch.empty(num_latents, width))
        self.encode = Layer(width, cross_heads, cross=True)
        self.process = nn.ModuleList(Layer(width, num_heads) for _ in range(num_layers))
        self.with_features = queries == "features"
        self.query = nn.Linear((channels[feature - 1] if self.with_features else 0) + encoding, width)
        self.decode = Layer(width, cross_heads, cross=True, residual=query_residual)
        self.classifier = nn.Linear(width, len(classes))
        nn.init.trunc_normal_(self.latents, std=0.02, a=-0.04, b=0.04)
        self.apply(_initialise)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """Returns `logits` (B, K, h, w), with one query per cell of the decoded map."""
        inside = ~padding_mask
        size = torch.stack([inside[:, :, 0].sum(1), inside[:, 0].sum(1)], dim=-1)  # (B, 2), pixels without padding
        inputs, positions, paddings = [], [], []
        for x, stride, project in zip(features, self.feature_strides, self.inputs, strict=True):
            centres = cell_centres(x, stride, size)
            encoding = fourier_encoding(centres, self.num_bands, self.max_resolution).to(x.dtype)
            inputs.append(project(torch.cat([x.flatten(2).transpose(1, 2), encoding], dim=-1)))  # (B, h * w, C)
            positions.append(encoding)
            paddings.append(mask_on_grid(padding_mask, (x.shape[2], x.shape[3])).flatten(1))
        padding = torch.cat(paddings, dim=1)  # (B, S)
        bias = torch.zeros_like(padding, dtype=inputs[0].dtype).masked_fill(padding, float("-inf"))[:, None, None]
        latents = self.latents.to(inputs[0].dtype).expand(padding.shape[0], -1, -1)  # (B, N, C)
        latents = self.encode(latents, torch.cat(inputs, dim=1), bias)
        for _ in range(self.num_blocks):
            for layer in self.process:
                latents = layer(latents)

        x, queries = features[self.feature], positions[self.feature]
        if self.with_features:
            queries = torch.cat([x.flatten(2).transpose(1, 2), queries], dim=-1)
        logits = self.classifier(self.decode(self.query(queries), latents))  # (B, h * w, K)
        return {"logits": logits.transpose(1, 2).unflatten(2, (x.shape[2], x.shape[3]))}

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return {} if self.class_weights.balanced else label_counts(targets, self.class_weights.fixed)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `cross_entropy`, a mean over the labelled pixels of all processes."""
        labels = label_maps(targets, outputs["logits"].device)  # (B, H, W)
        maps = self.maps(outputs, (labels.shape[1], labels.shape[2]))
        return {"cross_entropy": cross_entropy(maps, labels, context, self.class_weights(labels, context))}

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, *size) in fp32. size: (H, W) in pixels of the padded batch or a top-left crop of it."""
        return self._upsample(outputs["logits"].float(), size)

    def read_maps(self, maps: Tensor) -> Predictions:
        """(B, K, h, w) logits or probabilities -> `semantic` (B, h, w) uint8 by argmax."""
        return {"semantic": maps.argmax(1).to(torch.uint8)}

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns `semantic` (H, W) uint8 per image at its original size."""
        return [
            {"semantic": chunked_argmax(logits, self._upsample, tuple(target["size"]), tuple(target["original_size"]))}
            for logits, target in zip(outputs["logits"].float(), targets, strict=True)
        ]

    def _upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear from cells to their pixels, then the top-left crop of this size."""
        covered = (self.stride * logits.shape[-2], self.stride * logits.shape[-1])
        return F.interpolate(logits, size=covered, mode="bilinear")[..., : size[0], : size[1]]


class Layer(nn.Module):
    """Pre-norm attention and an MLP without expansion, for all three steps (section 3.1).

    cross: attends to other tokens, which are normalised separately. residual: adds the tokens to the result of
    attention.
    """

    def __init__(self, width: int, num_heads: int, cross: bool = False, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.norm = nn.LayerNorm(width)
        self.input_norm = nn.LayerNorm(width) if cross else None
        self.attention = MultiHeadAttention(width, num_heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, width)

    def forward(self, x: Tensor, inputs: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """x: (B, N, C). inputs: (B, S, C), only if `cross`. bias: (B, 1, 1, S). Returns (B, N, C)."""
        y = self.norm(x)
        z = y if self.input_norm is None else self.input_norm(inputs)
        y = self.attention(y, z, z, bias)
        x = x + y if self.residual else y
        return x + self.mlp(self.mlp_norm(x))


def cell_centres(x: Tensor, stride: int, size: Tensor) -> Tensor:
    """Rows and columns of the centres of a map's cells, in -1 ... 1 of the image without padding.

    x: (B, C, h, w). size: (B, 2), height and width of each image in pixels. Returns (B, h * w, 2), above 1 for cells in
    the padding. With centres, maps of different strides have one coordinate system; the authors' code maps the first
    and the last cell to -1 and 1.
    """
    rows, columns = (stride * (torch.arange(n, device=x.device) + 0.5) for n in x.shape[-2:])
    pixels = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)  # (h * w, 2)
    return 2 * pixels / size[:, None] - 1


def fourier_encoding(position: Tensor, num_bands: int, max_resolution: int) -> Tensor:
    """Fourier features of coordinates in -1 ... 1 (Perceiver, Jaegle et al. 2021, arXiv 2103.03206, section 3.2).

    position: (..., D). Returns (..., D * (2 * num_bands + 1)) in float32: the coordinates, the sines of pi f_k x of all
    bands of each coordinate, and the cosines, with f_k evenly spaced from 1 to max_resolution / 2.
    """
    position = position.float()
    bands = torch.linspace(1, max_resolution / 2, num_bands, device=position.device)
    angle = math.pi * (position[..., None] * bands).flatten(-2)  # (..., D * num_bands)
    return torch.cat([position, angle.sin(), angle.cos()], dim=-1)


def _initialise(module: nn.Module) -> None:
    """Initial weights of the authors' code: truncated normal of variance 1 / fan-in, and biases of 0."""
    if isinstance(module, nn.Linear):
        std = module.in_features**-0.5 / 0.87962566103423978  # of a normal distribution cut at two deviations
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(module.bias)
