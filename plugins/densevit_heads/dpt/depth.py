"""The DPT head for depth: features in, a map of metres or of relative inverse depth out."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, Head, Losses, Outputs, Predictions, Targets
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.losses import depth as metric_losses
from densevit.losses import relative_depth as relative_losses
from densevit_heads.dpt.decoder import Decoder, Norm, chosen, double, on_pixels

Output = Literal["relative", "sigmoid", "softplus", "bins", "inverse"]

_FIRST_GUESS = 0.25  # of max_depth: about the median of NYU (2.7 of 10 m) and KITTI (16 of 80 m)
_LAST_WIDTH = 32  # channels before the last convolution


class DptDepth(Head):
    """Depth of each pixel by DPT (Ranftl et al. 2021, sections 3 and 4).

    With the defaults the arithmetic is that of the published DPT-Large, on `vit` with variant "large", and DPT-Hybrid,
    variant "base" with stem "resnet", both with readout "project", feature_norm false and image_size 384. They have
    341.8 M and 121.2 M parameters; the paper's 343 M and 123 M count a residual unit that nothing goes through as well.

    What comes out is said by its name: `depth` is metres, `inverse_depth` is relative, 1 / metres but for an unknown
    scale and shift.

    output: "relative": inverse depth, from 0. The others are metric: "sigmoid", between min_depth and max_depth;
        "softplus", above min_depth without an end; "bins", the mean logarithm of `bins` depths at equal ratios between
        min_depth and max_depth, weighted by a softmax over them; "inverse", 1 / (scale * x + shift) of what "relative"
        gives, x, up to 1 / shift. So the authors fine-tune relative weights for NYU and KITTI, with a scale and a shift
        that align these to the metres beforehand: 0.000305 and 0.1378, 0.00006016 and 0.00579.
    min_depth, max_depth: metres. Truth outside them is not learnt from, but beyond max_depth with "softplus", for which
        it is only the scale. Relative depth has neither.
    scale, shift: of "inverse", in 1 / metres. None: a depth of max_depth at x = 0 and of a quarter of it at x = 1, for
        training from random weights.
    width: channels of the fusion. reassemble_channels: of each map that is resampled; None: a quarter, a half and all
        of the map's own at strides 4, 8, and 16 and 32. (96, 192, 384, 768) is published for "base" without hybrid.
    features: the numbers, from 1, of the maps that are taken, four at most; None: all.
    norm: of the fusion's residual units; see `densevit_heads.dpt.decoder.normalisation`.
    What each loss weighs, 0 for without; None: `trimmed` 1 and `gradient` 0.5 (MiDaS) for relative depth, `silog` 1 for
    metric depth. ssi, trimmed (relative depth alone), gradient: see `densevit.losses.relative_depth`; `gradient` goes
        by aligned inverse depth, robustly where `trimmed` weighs anything, for metric depth by logarithms. silog, l1,
        berhu (metric depth alone): see `densevit.losses.depth`.
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
        bins: int = 64,
        scale: float | None = None,
        shift: float | None = None,
        width: int = 256,
        reassemble_channels: tuple[int, ...] | None = None,
        features: tuple[int, ...] | None = None,
        norm: Norm = "none",
        ssi: float | None = None,
        trimmed: float | None = None,
        gradient: float | None = None,
        silog: float | None = None,
        l1: float | None = None,
        berhu: float | None = None,
    ) -> None:
        super().__init__(channels, strides, classes)
        self.taken = chosen(features, len(channels))
        check_widths(width, reassemble_channels, len(self.taken))
        if not 0 < min_depth < max_depth < math.inf:
            raise ValueError(f"min_depth is {min_depth:g} and max_depth {max_depth:g}; expected 0 < min < max.")
        if bins < 2:
            raise ValueError(f"bins is {bins}; it is at least 2.")
        for option, value in {"scale": scale, "shift": shift}.items():
            if value is not None and output != "inverse":
                raise ValueError(f"{option} is {value:g}, but output {output!r} has none: it is for 'inverse'.")
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{option} is {value:g}; it must be more than 0.")
        self.output, self.min_depth, self.max_depth = output, min_depth, max_depth
        self.scale = (1 / _FIRST_GUESS - 1) / max_depth if scale is None else scale
        self.shift = 1 / max_depth if shift is None else shift
        self.quantity = "inverse_depth" if output == "relative" else "depth"
        weights = {"ssi": ssi, "trimmed": trimmed, "gradient": gradient, "silog": silog, "l1": l1, "berhu": berhu}
        self.weights = _weights(weights, output)

        taken = [channels[i] for i in self.taken], [strides[i] for i in self.taken]
        self.decode = Decoder(*taken, width, reassemble_channels, norm)
        self.conv1 = nn.Conv2d(width, max(width // 2, 1), 3, padding=1)
        self.conv2 = nn.Conv2d(max(width // 2, 1), _LAST_WIDTH, 3, padding=1)
        self.conv3 = nn.Conv2d(_LAST_WIDTH, bins if output == "bins" else 1, 1)
        self.stride = self.decode.stride / 2
        self._initialise()

    def _initialise(self) -> None:
        assert self.conv3.bias is not None
        with torch.no_grad():
            if self.output == "relative":
                self.conv3.bias.fill_(1.0)  # or the last ReLU might let nothing through, nor any gradient back
            elif self.output == "sigmoid":
                self.conv3.bias.fill_(math.log(_FIRST_GUESS / (1 - _FIRST_GUESS)))
            elif self.output == "softplus":
                self.conv3.bias.fill_(math.log(math.e - 1))  # softplus of it is 1
            elif self.output == "inverse":
                inverse = max(1 / (_FIRST_GUESS * self.max_depth), 2 * self.shift)  # half the greatest depth at most
                self.conv3.bias.fill_((inverse - self.shift) / self.scale)
                self.conv3.weight.mul_(self.conv3.bias[0])  # or a small scale would leave all before it no gradient
            elif self.output == "bins":
                guess = math.log(_FIRST_GUESS * self.max_depth)
                self.conv3.bias.copy_(-((self._log_depths(self.conv3.bias) - guess) ** 2) / 2)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`depth` or `inverse_depth`, (B, 1, h, w) in fp32, a cell a pixel where strides are powers of two."""
        H, W = padding_mask.shape[-2:]
        x = self.decode([features[i] for i in self.taken], (H, W))[-1]
        x = F.relu(self.conv2(double(self.conv1(x))))
        with autocast_off(x.device):  # bf16 would leave a map some hundred depths
            assert self.conv3.bias is not None
            weight, bias = at_least_fp32(self.conv3.weight), at_least_fp32(self.conv3.bias)
            return {self.quantity: self._activated(F.conv2d(at_least_fp32(x), weight, bias))}

    def _activated(self, x: Tensor) -> Tensor:
        """(B, 1 or bins, h, w) -> (B, 1, h, w), in metres or relative."""
        if self.output == "relative":
            return F.relu(x)
        if self.output == "sigmoid":
            return self.min_depth + (self.max_depth - self.min_depth) * x.sigmoid()
        if self.output == "softplus":
            return self.min_depth + _FIRST_GUESS * self.max_depth * F.softplus(x)
        if self.output == "inverse":
            return 1 / (self.scale * F.relu(x) + self.shift)
        return torch.einsum("bkhw,k->bhw", x.softmax(1), self._log_depths(x))[:, None].exp()

    def _log_depths(self, like: Tensor) -> Tensor:
        """The logarithms of the bins' depths, (bins,). No buffer, which bf16 weights would round."""
        low, high = math.log(self.min_depth), math.log(self.max_depth)
        return torch.linspace(low, high, self.conv3.out_channels, device=like.device, dtype=like.dtype)

    def loss(self, outputs: Outputs, targets: list[Targets]) -> Losses:
        """The terms that weigh something, each a mean over images; see `densevit.losses.depth`."""
        maps = outputs[self.quantity]
        truth = metric_losses.depth_maps(targets, maps.device)
        prediction = on_pixels(maps, self.stride, (truth.shape[1], truth.shape[2]))[:, 0]
        terms = self._relative_terms if self.output == "relative" else self._metric_terms
        return {name: self.weights[name] * value for name, value in terms(prediction, truth).items()}

    def _relative_terms(self, prediction: Tensor, truth: Tensor) -> Losses:
        known, metres = metric_losses.known_pixels(truth)
        inverse = torch.where(known, 1 / metres, 0.0)
        terms: Losses = {}
        if "ssi" in self.weights:
            terms["ssi"] = relative_losses.scale_and_shift_invariant(prediction, inverse)
        if "trimmed" in self.weights:
            terms["trimmed"] = relative_losses.trimmed(prediction, inverse)
        if "gradient" in self.weights:
            robust = "trimmed" in self.weights
            align = relative_losses.robust_error if robust else relative_losses.least_squares_error
            terms["gradient"] = relative_losses.gradient_matching(*align(prediction, inverse))
        return terms

    def _metric_terms(self, prediction: Tensor, truth: Tensor) -> Losses:
        inside = truth >= self.min_depth
        if self.output != "softplus":
            inside = inside & (truth <= self.max_depth)
        truth = torch.where(inside, truth, 0.0)
        terms: Losses = {}
        for name in ("silog", "l1", "berhu"):
            if name in self.weights:
                terms[name] = getattr(metric_losses, name)(prediction, truth)
        if "gradient" in self.weights:
            known, metres = metric_losses.known_pixels(truth)
            terms["gradient"] = relative_losses.gradient_matching(metric_losses.log_error(prediction, metres), known)
        return terms

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """`depth` in metres, or `inverse_depth`, relative: (H, W) float32 an image, in its original pixels."""
        found = []
        for own, target in zip(outputs[self.quantity], targets, strict=True):
            x = on_pixels(own[None].float(), self.stride, tuple(target["size"]))
            if x.shape[-2:] != torch.Size(target["original_size"]):
                x = F.interpolate(x, size=tuple(target["original_size"]), mode="bilinear", align_corners=False)
            found.append({self.quantity: x[0, 0]})
        return found

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """The depths (B, 1, *size) in fp32. size: of the batch's grid in pixels, or of its top left part.

        Relative maps of different windows have scales and shifts of their own, and their mean means little.
        """
        return on_pixels(outputs[self.quantity].float(), self.stride, size)

    def read_maps(self, maps: Tensor) -> dict[str, Tensor]:
        """(B, 1, H, W) of `maps` -> `depth` or `inverse_depth`, (B, H, W)."""
        return {self.quantity: maps[:, 0]}


def check_widths(width: int, reassemble_channels: Sequence[int] | None, count: int) -> None:
    if width < 1:
        raise ValueError(f"width is {width}; it is at least 1.")
    if reassemble_channels is not None and (len(reassemble_channels) != count or min(reassemble_channels) < 1):
        raise ValueError(
            f"reassemble_channels is {list(reassemble_channels)}; expected {count} numbers from 1 on, one a map."
        )


def _weights(given: dict[str, float | None], output: Output) -> dict[str, float]:
    """The losses that weigh something; all of them are checked against the output."""
    relative = output == "relative"
    others = ("silog", "l1", "berhu") if relative else ("ssi", "trimmed")
    defaults = {"trimmed": 1.0, "gradient": 0.5} if relative else {"silog": 1.0}
    weights: dict[str, float] = {}
    for name, weight in given.items():
        weight = defaults.get(name, 0.0) if weight is None else weight
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} is {weight:g}; it is a loss's weight, at least 0.")
        if weight and name in others:
            kind, wanted = ("relative", "ssi, trimmed") if relative else ("metric", "silog, l1, berhu")
            raise ValueError(
                f"{name} is {weight:g}, but output {output!r} is {kind} depth, which learns by {wanted} and gradient."
            )
        if weight:
            weights[name] = weight
    if not weights:
        raise ValueError("All losses weigh 0, and the head would learn nothing: leave one at its default.")
    return weights
