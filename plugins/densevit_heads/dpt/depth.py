"""The DPT head for metric depth or relative inverse depth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, Dataset, DenseHead, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.losses import depth as metric_losses
from densevit.losses import relative_depth as relative_losses
from densevit.set_prediction.limits import check_counts
from densevit_heads.dpt.decoder import Decoder, Norm, Upsampling, double, enlarge, feature_indices, upsample
from densevit_heads.parts.depth_limits import check_max_depth

Output = Literal["relative", "sigmoid", "softplus", "bins", "inverse"]

_INITIAL_DEPTH = 0.25  # times max_depth: about the median of NYU (2.7 of 10 m) and KITTI (16 of 80 m)
_LAST_WIDTH = 32  # channels before the last convolution
_BINS = 64


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

    def weights_by_name(self, relative: bool) -> dict[str, float]:
        """The weights above 0, by name. Raises ValueError for a weight that the depth's type does not use, and if all
        are 0."""
        depth, names = ("relative", ("trimmed", "gradient")) if relative else ("metric", ("silog", "l1", "gradient"))
        defaults = {"trimmed": 1.0, "gradient": 0.5} if relative else {"silog": 1.0}
        weights = {name: defaults.get(name, 0.0) if weight is None else weight for name, weight in vars(self).items()}
        weights = {name: weight for name, weight in weights.items() if weight}
        for name in weights.keys() - names:
            raise ValueError(
                f"loss_weights.{name} is {weights[name]:g}, but output is {depth} depth; "
                f"its losses are {', '.join(names)}."
            )
        if not weights:
            raise ValueError("All loss weights are 0. Fix: remove one, for its default, or set it above 0.")
        return weights


class DptDepth(DenseHead):
    """Monocular depth estimation by DPT (Ranftl et al. 2021, sections 3 and 4).

    The defaults match the published DPT-Large, with backbone `vit` of variant "large", and DPT-Hybrid, variant "base"
    with stem "resnet", both with readout "project", feature_norm false and image_size 384. They have 341.8 M and
    121.2 M parameters; the paper's 343 M and 123 M include an unused residual unit.

    The output key is `depth` for metres and `inverse_depth` for relative inverse depth, which is 1 / metres up to an
    unknown scale and shift.

    output: "relative": inverse depth of at least 0. All other values are metric. "sigmoid": between min_depth and
        max_depth. "softplus": above min_depth, unbounded. "bins": the mean log depth of 64 log-spaced depths between
        min_depth and max_depth, weighted by a softmax. "inverse": 1 / (scale * x + shift) of the "relative" output x,
        at most 1 / shift. The authors fine-tune relative weights in this way for NYU (scale 0.000305, shift 0.1378) and
        KITTI (0.00006016, 0.00579), where scale and shift align the initial prediction with metres.
    min_depth, max_depth: metres. Ground truth outside this range is ignored, except beyond max_depth for "softplus",
        where max_depth only sets the scale. Not used for relative depth.
    scale, shift: the constants of "inverse", in 1 / metres. None: depth is max_depth at x = 0 and a quarter of it at x
        = 1, for training from random weights.
    width: channels of the fusion. reassemble_channels: channels of each resampled map; None: a quarter and a half of
        the map's channels at strides 4 and 8, and all at 16 and 32. (96, 192, 384, 768) is published for DPT-Base (not
        hybrid).
    features: numbers, from 1, of the maps to use, at most four; None: all.
    norm: the norm of the residual units of the fusion, see `densevit_heads.dpt.decoder.normalisation`.
    upsampling: "double": by 2, as in DPT; "exact": each fused map to the size of the finer map, and the map before the
        last two convolutions to pixels, as in Depth Anything (V1 and V2, Yang et al. 2024): DPT without readout on a
        DINOv2 `vit`.
    loss_weights: weights of the terms of the loss.
    """

    task = "depth"
    needs = ("depth",)
    quantity: str

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
        loss_weights: DepthLossWeights = DepthLossWeights(),
    ) -> None:
        super().__init__(channels, strides, classes)
        self.feature_indices = feature_indices(features, len(channels))
        check_widths(width, reassemble_channels, len(self.feature_indices))
        if not 0 < min_depth < max_depth < math.inf:
            raise ValueError(f"min_depth is {min_depth:g} and max_depth {max_depth:g}; expected 0 < min < max.")
        for option, value in {"scale": scale, "shift": shift}.items():
            if value is not None and output != "inverse":
                raise ValueError(
                    f"{option} is {value:g}, but output {output!r} does not use it; it needs output 'inverse'."
                )
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{option} is {value:g}; it must be more than 0.")
        self.output, self.min_depth, self.max_depth = output, min_depth, max_depth
        self.scale = (1 / _INITIAL_DEPTH - 1) / max_depth if scale is None else scale
        self.shift = 1 / max_depth if shift is None else shift
        self.quantity = "inverse_depth" if output == "relative" else "depth"
        self.weights = loss_weights.weights_by_name(output == "relative")

        inputs = [channels[i] for i in self.feature_indices], [strides[i] for i in self.feature_indices]
        self.decode = Decoder(*inputs, width, reassemble_channels, norm, upsampling)
        self.conv1 = nn.Conv2d(width, max(width // 2, 1), 3, padding=1)
        self.conv2 = nn.Conv2d(max(width // 2, 1), _LAST_WIDTH, 3, padding=1)
        self.conv3 = nn.Conv2d(_LAST_WIDTH, _BINS if output == "bins" else 1, 1)
        self.map_stride = inputs[1][0]
        self.stride = Fraction(1) if upsampling == "exact" else self.decode.stride / 2
        self._initialise()

    def check(self, dataset: Dataset) -> None:
        """Raises ConfigError if most depths of the data set are beyond max_depth; warns if some are."""
        super().check(dataset)
        if self.output not in ("relative", "softplus"):
            check_max_depth(dataset, self.max_depth)

    def _initialise(self) -> None:
        assert self.conv3.bias is not None
        with torch.no_grad():
            if self.output == "relative":
                self.conv3.bias.fill_(1.0)  # keeps the last ReLU active, with gradients
            elif self.output == "sigmoid":
                self.conv3.bias.fill_(math.log(_INITIAL_DEPTH / (1 - _INITIAL_DEPTH)))
            elif self.output == "softplus":
                self.conv3.bias.fill_(math.log(math.e - 1))  # softplus(bias) = 1
            elif self.output == "inverse":
                inverse = max(1 / (_INITIAL_DEPTH * self.max_depth), 2 * self.shift)  # at most half the maximum depth
                self.conv3.bias.fill_((inverse - self.shift) / self.scale)
                self.conv3.weight.mul_(self.conv3.bias[0])  # a small scale would make gradients vanish
            elif self.output == "bins":
                initial = math.log(_INITIAL_DEPTH * self.max_depth)
                self.conv3.bias.copy_(-((self._log_depths(self.conv3.bias) - initial) ** 2) / 2)

    def replaced_tensors(self, options: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
        """The last convolution, if the weights come from another type of output, such as relative depth for metres.

        Its weights become 0, and its bias keeps the initial value: the initial prediction is constant, whatever the
        range of the maps before it. "relative" and "inverse" have the same last convolution.
        """
        loaded = options.get("output", "relative")
        same = ("relative", "inverse")
        if loaded == self.output or (loaded in same and self.output in same):
            return {}, ""
        assert self.conv3.bias is not None
        weight, bias = torch.zeros_like(self.conv3.weight), self.conv3.bias.detach().clone()
        why = (
            f"the last convolution (conv3) is untrained: the weights have output {loaded!r}, this head {self.output!r}"
        )
        return {"conv3.weight": weight, "conv3.bias": bias}, why

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`depth` or `inverse_depth`, (B, 1, h, w) in fp32, at pixel resolution if strides are powers of two or
        upsampling is "exact"; it may extend beyond the images, to whole cells of the finest map."""
        H, W = padding_mask.shape[-2:]
        maps = [features[i] for i in self.feature_indices]
        x = self.conv1(self.decode(maps, (H, W))[-1])
        if self.decode.upsampling == "exact":
            height, width = maps[0].shape[-2:]
            x = enlarge(x, (height * self.map_stride, width * self.map_stride))
        else:
            x = double(x)
        x = F.relu(self.conv2(x))
        with autocast_off(x.device):  # bf16 would quantise a map to some hundred depths
            assert self.conv3.bias is not None
            weight, bias = at_least_fp32(self.conv3.weight), at_least_fp32(self.conv3.bias)
            return {self.quantity: self._activation(F.conv2d(at_least_fp32(x), weight, bias))}

    def _activation(self, x: Tensor) -> Tensor:
        """(B, 1 or 64, h, w) -> (B, 1, h, w), metres or relative inverse depth."""
        if self.output == "relative":
            return F.relu(x)
        if self.output == "sigmoid":
            return self.min_depth + (self.max_depth - self.min_depth) * x.sigmoid()
        if self.output == "softplus":
            return self.min_depth + _INITIAL_DEPTH * self.max_depth * F.softplus(x)
        if self.output == "inverse":
            return 1 / (self.scale * F.relu(x) + self.shift)
        return torch.einsum("bkhw,k->bhw", x.softmax(1), self._log_depths(x))[:, None].exp()

    def _log_depths(self, like: Tensor) -> Tensor:
        """Log depths of the bins, (bins,). Not a buffer, which would be rounded in a bf16 model."""
        low, high = math.log(self.min_depth), math.log(self.max_depth)
        return torch.linspace(low, high, self.conv3.out_channels, device=like.device, dtype=like.dtype)

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        """The number of images with a valid pixel; for relative depth with two, as a single pixel cannot be aligned."""
        least = 2 if self.output == "relative" else 1
        maps = [target["depth"] for target in targets if "depth" in target]
        valid = [metric_losses.valid_pixels(self._in_range(x))[0].sum() for x in maps]
        return {"images": float(sum(count >= least for count in valid))}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns the terms of non-zero weight, each a mean over images; see `densevit.losses.depth`."""
        maps = outputs[self.quantity]
        truth = metric_losses.depth_maps(targets, maps.device)
        prediction = upsample(maps, self.stride, (truth.shape[1], truth.shape[2]))[:, 0]
        terms = self._relative_terms if self.output == "relative" else self._metric_terms
        return {name: self.weights[name] * value for name, value in terms(prediction, truth, context).items()}

    def _relative_terms(self, prediction: Tensor, truth: Tensor, context: LossContext) -> Losses:
        valid, metres = metric_losses.valid_pixels(truth)
        inverse = torch.where(valid, 1 / metres, 0.0)
        terms: Losses = {}
        if "trimmed" in self.weights:
            terms["trimmed"] = relative_losses.scale_and_shift_invariant(prediction, inverse, context)
        if "gradient" in self.weights:
            error = relative_losses.robust_error(prediction, inverse)
            terms["gradient"] = relative_losses.gradient_matching(*error, context)
        return terms

    def _metric_terms(self, prediction: Tensor, truth: Tensor, context: LossContext) -> Losses:
        truth = self._in_range(truth)
        terms: Losses = {}
        for name in ("silog", "l1"):
            if name in self.weights:
                terms[name] = getattr(metric_losses, name)(prediction, truth, context)
        if "gradient" in self.weights:
            valid, metres = metric_losses.valid_pixels(truth)
            error = metric_losses.log_error(prediction, metres)
            terms["gradient"] = relative_losses.gradient_matching(error, valid, context)
        return terms

    def _in_range(self, truth: Tensor) -> Tensor:
        """Depth in metres, 0 (invalid) where the head cannot predict it."""
        if self.output == "relative":
            return truth
        in_range = truth >= self.min_depth
        if self.output != "softplus":
            in_range = in_range & (truth <= self.max_depth)
        return torch.where(in_range, truth, 0.0)

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """`depth` in metres or relative `inverse_depth`, (H, W) float32 per image at its original size."""
        predictions = []
        for x, target in zip(outputs[self.quantity], targets, strict=True):
            x = upsample(x[None].float(), self.stride, tuple(target["size"]))
            original = tuple(target["original_size"])
            if tuple(x.shape[-2:]) != original:
                x = F.interpolate(x, size=original, mode="bilinear", align_corners=False)
            predictions.append({self.quantity: x[0, 0]})
        return predictions

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Depth (B, 1, *size) in fp32. size: (H, W) in pixels of the padded batch or a top-left crop of it.

        Averaging relative maps of different windows is not meaningful: their scales and shifts differ.
        """
        return upsample(outputs[self.quantity].float(), self.stride, size)

    def read_maps(self, maps: Tensor) -> dict[str, Tensor]:
        """(B, 1, H, W) of `maps` -> `depth` or `inverse_depth`, (B, H, W)."""
        return {self.quantity: maps[:, 0]}


def check_widths(width: int, reassemble_channels: Sequence[int] | None, count: int) -> None:
    check_counts({"width": width})
    if reassemble_channels is not None and (len(reassemble_channels) != count or min(reassemble_channels) < 1):
        raise ValueError(
            f"reassemble_channels is {list(reassemble_channels)}; expected {count} numbers of at least 1, one per map."
        )
