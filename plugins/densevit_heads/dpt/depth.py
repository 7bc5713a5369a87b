"""The DPT head for metric depth or relative inverse depth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, LossContext, Losses, Outputs, Targets
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.losses.depth import valid_pixels
from densevit.set_prediction.limits import check_counts
from densevit_heads.dpt.decoder import DptDecoder, Norm, Upsampling, double, enlarge, feature_indices, upsample
from densevit_heads.dpt.depth_outputs import OUTPUT_TYPES, Output, create_output_type
from densevit_heads.parts.depth_head import Camera, DepthHead

_LAST_WIDTH = 32  # channels before the last convolution
_SKY = 0.3  # a pixel of at least this value is sky, as in the authors' code


@dataclass(frozen=True)
class DepthLossWeights:
    """Weights of the terms of the loss; 0 disables. None: `trimmed` 1 and `gradient` 0.5 (MiDaS) for relative depth,
    `silog` 1 for metric depth.

    silog, l1: weights of the losses of metric depth in `densevit.losses.depth`.
    trimmed: weight of the loss of relative depth in `densevit.losses.relative_depth`.
    gradient: weight of gradient matching of log depth, or of inverse depth after robust alignment.
    """

    silog: float | None = None
    l1: float | None = None
    trimmed: float | None = None
    gradient: float | None = None

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if weight is not None and not 0 <= weight < math.inf:
                raise ValueError(f"{name} is {weight:g}; a loss weight must be finite and at least 0.")

    def weights_by_name(self, output: Output) -> dict[str, float]:
        """The weights above 0, by name. Raises ValueError for a weight that the output type does not use, and if all
        are 0."""
        defaults, names = OUTPUT_TYPES[output].default_weights, OUTPUT_TYPES[output].losses.keys()
        weights = {name: defaults.get(name, 0.0) if weight is None else weight for name, weight in vars(self).items()}
        weights = {name: weight for name, weight in weights.items() if weight}
        for name in weights.keys() - names:
            raise ValueError(
                f"loss_weights.{name} is {weights[name]:g}, but the losses of output {output!r} are {', '.join(names)}."
            )
        if not weights:
            raise ValueError("All loss weights are 0. Fix: remove one, for its default, or set it above 0.")
        return weights


class DptDepth(DepthHead):
    """Monocular depth estimation by DPT (Ranftl et al. 2021, sections 3 and 4).

    The defaults match the published DPT-Large, with backbone `vit` of variant "large", and DPT-Hybrid, variant "base"
    with stem "resnet", both with readout "project", feature_norm false and image_size 384. They have 341.8 M and
    121.2 M parameters; the paper's 343 M and 123 M include an unused residual unit.

    The output key is `depth` for metres and `inverse_depth` for relative inverse depth, which is 1 / metres up to an
    unknown scale and shift.

    output: "relative": inverse depth of at least 0. "relative_exponential": inverse depth exp(-x) of a network of
        relative depth exp(x), such as Depth Anything 3. All other values are metric. "sigmoid": between min_depth and
        max_depth. "softplus": above min_depth, unbounded. "exponential": exp(x), unbounded. "bins": the mean log depth
        of 64 log-spaced depths between min_depth and max_depth, weighted by a softmax. "inverse": 1 / (scale * x +
        shift) of the "relative" output x, at most 1 / shift. The authors fine-tune relative weights in this way for NYU
        (scale 0.000305, shift 0.1378) and KITTI (0.00006016, 0.00579), where scale and shift align the initial
        prediction with metres.
    min_depth, max_depth: metres. Ground truth outside this range is ignored, except beyond max_depth for "softplus" and
        "exponential", where max_depth only sets the scale. With a canonical camera, metres of that camera. Not used for
        relative depth.
    camera, canonical_focal: the parameters of `DepthHead`, for metric outputs.
    scale, shift: the constants of "inverse", in 1 / metres. None: depth is max_depth at x = 0 and a quarter of it at x
        = 1, for training from random weights.
    width: channels of the fusion. reassemble_channels: channels of each resampled map; None: a quarter and a half of
        the map's channels at strides 4 and 8, and all at 16 and 32. (96, 192, 384, 768) is published for DPT-Base (not
        hybrid).
    features: numbers, from 1, of the maps to use, at most four; None: all.
    norm: the norm of the residual units of the fusion (`densevit_heads.dpt.decoder.normalisation`).
    upsampling: "double": by 2, as in DPT; "exact": each fused map to the size of the finer map, and the map before the
        last two convolutions to pixels, as in Depth Anything (V1 and V2, Yang et al. 2024; 3, Lin et al. 2025): DPT
        without readout on a DINOv2 `vit`.
    sky: predicts the mask `sky` too, as in Depth Anything 3; where it is 1, depth is 0 (unknown) and inverse depth 0
        (infinitely far). Its layers are not trained, because depth maps do not label the sky.
    loss_weights: weights of the terms of the loss.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class] = (),
        output: Output = "relative",
        max_depth: float = 10.0,
        min_depth: float = 1e-3,
        scale: float | None = None,
        shift: float | None = None,
        width: int = 256,
        reassemble_channels: tuple[int, ...] | None = None,
        features: tuple[int, ...] | None = None,
        norm: Norm = "none",
        upsampling: Upsampling = "double",
        sky: bool = False,
        loss_weights: DepthLossWeights = DepthLossWeights(),
        camera: Camera | None = None,
        canonical_focal: float = 300.0,
    ) -> None:
        super().__init__(channels, strides, classes, camera, canonical_focal)
        self.feature_indices = feature_indices(features, len(channels))
        check_widths(width, reassemble_channels, len(self.feature_indices))
        self.output, self.weights = output, loss_weights.weights_by_name(output)
        self.output_type = create_output_type(output, min_depth, max_depth, scale, shift)
        self.depth_type = self.output_type.depth_type
        self.largest_depth = self.output_type.max_depth if self.output_type.bounded else math.inf
        if camera is not None and self.depth_type != "depth":
            raise ValueError(f"camera is {camera!r}, but output {output!r} has no metres. Fix: output: softplus.")

        inputs = [channels[i] for i in self.feature_indices], [strides[i] for i in self.feature_indices]
        self.decode = DptDecoder(*inputs, width, reassemble_channels, norm, upsampling)
        half = max(width // 2, 1)
        self.conv1 = nn.Conv2d(width, half, 3, padding=1)
        self.conv2 = nn.Conv2d(half, _LAST_WIDTH, 3, padding=1)
        self.conv3 = nn.Conv2d(_LAST_WIDTH, self.output_type.channels, 1)
        self.sky = _sky_layers(half) if sky else None
        self.map_stride = inputs[1][0]
        self.stride = Fraction(1) if upsampling == "exact" else self.decode.stride / 2
        with torch.no_grad():
            self.output_type.initialise(*self.conv3.parameters())

    def replaced_tensors(self, options: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
        """The last convolution, if the weights come from another type of output, such as relative depth for metres.

        Its weights become 0, and its bias keeps the initial value: the initial prediction is constant, whatever the
        range of the maps before it.
        """
        loaded = options.get("output", "relative")
        if OUTPUT_TYPES[loaded].values == self.output_type.values:
            return {}, ""
        weight, bias = self.conv3.parameters()
        why = (
            f"the last convolution (conv3) is untrained: the weights have output {loaded!r}, this head {self.output!r}"
        )
        return {"conv3.weight": torch.zeros_like(weight), "conv3.bias": bias.detach().clone()}, why

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`depth` or `inverse_depth`, and `sky`, (B, 1, h, w) in fp32, at pixel resolution if strides are powers of two
        or upsampling is "exact"; they may extend beyond the images, to whole cells of the finest map."""
        H, W = padding_mask.shape[-2:]
        maps = [features[i] for i in self.feature_indices]
        x = self.conv1(self.decode(maps, (H, W))[-1])
        if self.decode.upsampling == "exact":
            height, width = maps[0].shape[-2:]
            x = enlarge(x, (height * self.map_stride, width * self.map_stride))
        else:
            x = double(x)
        outputs = {} if self.sky is None else {"sky": at_least_fp32(self.sky(x))}
        x = F.relu(self.conv2(x))
        with autocast_off(x.device):  # bf16 would quantise a map to some hundred depths
            assert self.conv3.bias is not None
            weight, bias = at_least_fp32(self.conv3.weight), at_least_fp32(self.conv3.bias)
            return outputs | {self.depth_type: self.output_type.read(F.conv2d(at_least_fp32(x), weight, bias))}

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        """The number of images with enough pixels of a target."""
        counts = [valid_pixels(self.output_type.target(x))[0].sum() for x in self.depths(targets)]
        return {"images": float(sum(count >= self.output_type.min_pixels for count in counts))}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns the terms of non-zero weight, each a mean over images; see `densevit.losses.depth`."""
        maps = outputs[self.depth_type]
        truth = self.truth(targets, maps.device)
        prediction = upsample(maps, self.stride, (truth.shape[1], truth.shape[2]))[:, 0]
        target, losses = self.output_type.target(truth), self.output_type.losses
        return {name: weight * losses[name](prediction, target, context) for name, weight in self.weights.items()}

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Depth, and sky, (B, 1 or 2, *size) in fp32. size: (H, W) in pixels of the padded batch or a top-left crop.

        Averaging relative maps of different windows is not meaningful: their scales and shifts differ.
        """
        return upsample(self._stacked(outputs).float(), self.stride, size)

    def read_maps(self, maps: Tensor) -> dict[str, Tensor]:
        """(B, 1 or 2, H, W) of `maps` -> `depth` or `inverse_depth`, and `sky`, (B, H, W)."""
        if self.sky is None:
            return {self.depth_type: maps[:, 0]}
        sky = maps[:, 1] >= _SKY
        return {self.depth_type: maps[:, 0].masked_fill(sky, 0.0), "sky": sky.to(torch.uint8)}

    def undo_zoom(self, maps: Tensor, zoom: float) -> Tensor:
        """The maps of an image that was enlarged by `zoom`, at zoom 1: metres grow, inverse depth falls, sky stays."""
        factor = zoom if self.depth_type == "depth" else 1 / zoom
        return torch.cat([maps[:, :1] * factor, maps[:, 1:]], 1)

    def _stacked(self, outputs: Outputs) -> Tensor:
        """(B, 1 or 2, h, w): depth or inverse depth, and sky."""
        depth = outputs[self.depth_type]
        return depth if self.sky is None else torch.cat([depth, outputs["sky"]], 1)


def _sky_layers(channels: int) -> nn.Sequential:
    layers = nn.Conv2d(channels, _LAST_WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(_LAST_WIDTH, 1, 1), nn.ReLU()
    return nn.Sequential(*layers).requires_grad_(False)


def check_widths(width: int, reassemble_channels: Sequence[int] | None, count: int) -> None:
    check_counts({"width": width})
    if reassemble_channels is not None and (len(reassemble_channels) != count or min(reassemble_channels) < 1):
        raise ValueError(
            f"reassemble_channels is {list(reassemble_channels)}; expected {count} numbers of at least 1, one per map."
        )
