"""The output types of the DPT head: relative inverse depth in two ways, or metres in five.

A type says what the values x of the last convolution mean, how they start, which ground truth they can reach, and which
losses train them.
"""

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import LossContext
from densevit.losses import depth as metric_losses
from densevit.losses import relative_depth as relative_losses

Output = Literal["relative", "relative_exponential", "sigmoid", "softplus", "bins", "inverse", "exponential"]
Loss = Callable[[Tensor, Tensor, LossContext], Tensor]
"""A loss of a prediction and its target, both (B, H, W), 0 where there is no target."""

_INITIAL_DEPTH = 0.25  # times max_depth: about the median of NYU (2.7 of 10 m) and KITTI (16 of 80 m)


def gradient_of_inverse(prediction: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Gradient matching of inverse depth after robust alignment (MiDaS, Ranftl et al. 2020, equation 11)."""
    error, valid = relative_losses.robust_error(prediction, target)
    return relative_losses.gradient_matching(error, valid, context)


def gradient_of_log_depth(prediction: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Gradient matching of log depth."""
    valid, metres = metric_losses.valid_pixels(target)
    return relative_losses.gradient_matching(metric_losses.log_error(prediction, metres), valid, context)


class OutputType:
    """What the values x of the last convolution mean. The defaults are of metric depth.

    min_depth, max_depth: limits in metres.
    """

    depth_type: ClassVar[str] = "depth"
    values: ClassVar[str]  # what x is; types with the same values have the same last convolution
    initial: ClassVar[float]  # bias of the last convolution
    channels: ClassVar[int] = 1  # of x
    losses: ClassVar[Mapping[str, Loss]] = {
        "silog": metric_losses.silog,
        "l1": metric_losses.l1,
        "gradient": gradient_of_log_depth,
    }
    default_weights: ClassVar[Mapping[str, float]] = {"silog": 1.0}
    bounded: ClassVar[bool] = True
    min_pixels: ClassVar[int] = 1  # of an image with a loss

    def __init__(self, min_depth: float, max_depth: float) -> None:
        self.min_depth, self.max_depth = min_depth, max_depth

    def read(self, x: Tensor) -> Tensor:
        """The depth, or relative inverse depth, of x: (B, channels, h, w) -> (B, 1, h, w)."""
        raise NotImplementedError

    def initialise(self, weight: Tensor, bias: Tensor) -> None:
        """Sets the initial bias of the last convolution, and scales its weight if necessary."""
        bias.fill_(self.initial)

    def target(self, truth: Tensor) -> Tensor:
        """Ground truth in metres as the type that is predicted, 0 where the type cannot predict it."""
        in_range = truth >= self.min_depth
        if self.bounded:
            in_range = in_range & (truth <= self.max_depth)
        return torch.where(in_range, truth, 0.0)


class Relative(OutputType):
    """Relative inverse depth: relu(x)."""

    depth_type, values, bounded = "inverse_depth", "inverse depth", False
    initial = 1.0  # keeps the ReLU active, with gradients
    losses: ClassVar[Mapping[str, Loss]] = {
        "trimmed": relative_losses.scale_and_shift_invariant,
        "gradient": gradient_of_inverse,
    }
    default_weights: ClassVar[Mapping[str, float]] = {"trimmed": 1.0, "gradient": 0.5}  # of MiDaS
    min_pixels = 2  # a single pixel cannot be aligned

    def read(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def target(self, truth: Tensor) -> Tensor:
        valid, metres = metric_losses.valid_pixels(truth)
        return torch.where(valid, 1 / metres, 0.0)


class RelativeExponential(Relative):
    """Relative inverse depth: exp(-x), of a network of relative depth exp(x)."""

    values, initial = "log depth", 0.0

    def read(self, x: Tensor) -> Tensor:
        return (-x).exp()


class Sigmoid(OutputType):
    """min_depth + (max_depth - min_depth) sigmoid(x)."""

    values, initial = "log-odds of depth", math.log(_INITIAL_DEPTH / (1 - _INITIAL_DEPTH))

    def read(self, x: Tensor) -> Tensor:
        return self.min_depth + (self.max_depth - self.min_depth) * x.sigmoid()


class Softplus(OutputType):
    """min_depth + max_depth / 4 softplus(x), unbounded."""

    values, bounded = "depth", False
    initial = math.log(math.e - 1)  # softplus(initial) = 1

    def read(self, x: Tensor) -> Tensor:
        return self.min_depth + _INITIAL_DEPTH * self.max_depth * F.softplus(x)


class Bins(OutputType):
    """The mean log depth of log-spaced depths between min_depth and max_depth, weighted by a softmax of x."""

    values, channels = "scores of bins", 64

    def read(self, x: Tensor) -> Tensor:
        return torch.einsum("bkhw,k->bhw", x.softmax(1), self.log_depths(x))[:, None].exp()

    def initialise(self, weight: Tensor, bias: Tensor) -> None:
        initial = math.log(_INITIAL_DEPTH * self.max_depth)
        bias.copy_(-((self.log_depths(bias) - initial) ** 2) / 2)

    def log_depths(self, like: Tensor) -> Tensor:
        """Log depths of the bins, (bins,). Not a buffer, which would be rounded in a bf16 model."""
        low, high = math.log(self.min_depth), math.log(self.max_depth)
        return torch.linspace(low, high, self.channels, device=like.device, dtype=like.dtype)


class Inverse(OutputType):
    """1 / (scale relu(x) + shift), with x of `Relative`.

    scale, shift: None: depth is max_depth at x = 0 and a quarter of it at x = 1.
    """

    values = Relative.values

    def __init__(
        self, min_depth: float, max_depth: float, scale: float | None = None, shift: float | None = None
    ) -> None:
        super().__init__(min_depth, max_depth)
        self.scale = (1 / _INITIAL_DEPTH - 1) / max_depth if scale is None else scale
        self.shift = 1 / max_depth if shift is None else shift

    def read(self, x: Tensor) -> Tensor:
        return 1 / (self.scale * F.relu(x) + self.shift)

    def initialise(self, weight: Tensor, bias: Tensor) -> None:
        inverse = max(1 / (_INITIAL_DEPTH * self.max_depth), 2 * self.shift)  # at most half the maximum depth
        bias.fill_((inverse - self.shift) / self.scale)
        weight.mul_(bias)  # a small scale would make gradients vanish


class Exponential(OutputType):
    """exp(x), unbounded."""

    values, bounded = "log depth", False

    def read(self, x: Tensor) -> Tensor:
        return x.exp()

    def initialise(self, weight: Tensor, bias: Tensor) -> None:
        bias.fill_(math.log(_INITIAL_DEPTH * self.max_depth))


OUTPUT_TYPES: dict[str, type[OutputType]] = {
    "relative": Relative,
    "relative_exponential": RelativeExponential,
    "sigmoid": Sigmoid,
    "softplus": Softplus,
    "bins": Bins,
    "inverse": Inverse,
    "exponential": Exponential,
}


def create_output_type(
    output: Output, min_depth: float, max_depth: float, scale: float | None, shift: float | None
) -> OutputType:
    """Raises ValueError for limits that are no range, and for constants that the type does not use."""
    if not 0 < min_depth < max_depth < math.inf:
        raise ValueError(f"min_depth is {min_depth:g} and max_depth {max_depth:g}; expected 0 < min < max.")
    constants = {option: value for option, value in {"scale": scale, "shift": shift}.items() if value is not None}
    for option, value in constants.items():
        if output != "inverse":
            raise ValueError(
                f"{option} is {value:g}, but output {output!r} does not use it; it needs output 'inverse'."
            )
        if not 0 < value < math.inf:
            raise ValueError(f"{option} is {value:g}; it must be more than 0.")
    return OUTPUT_TYPES[output](min_depth, max_depth, **constants)
