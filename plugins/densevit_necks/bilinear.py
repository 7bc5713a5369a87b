"""Bilinear upsampling of features, and the factor of necks that upsample."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import Neck


class Bilinear(Neck):
    """Upsamples the last feature bilinearly; other features are ignored. The control of learned upsamplers.

    stride: the stride of the output in pixels, a divisor of the last feature's. None: the smallest of at least 4.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], stride: int | None = None) -> None:
        super().__init__(channels[-1:], strides[-1:])
        self.factor = upsampling_factor(strides[-1], stride)
        self.strides = (strides[-1] // self.factor,)

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """Uses the last feature, (B, C, h, w). Returns one map (B, C, h * factor, w * factor)."""
        h, w = features[-1].shape[-2:]
        size = (h * self.factor, w * self.factor)
        return [F.interpolate(features[-1], size=size, mode="bilinear", align_corners=False)]


def upsampling_factor(stride: int, target: int | None) -> int:
    """The factor from a stride to a finer one. target: None: the smallest divisor of `stride` that is at least 4, or
    `stride` if it is smaller. Raises ValueError unless `target` divides `stride`."""
    if target is None:
        target = min((n for n in range(4, stride) if stride % n == 0), default=stride)
    if target < 1 or stride % target:
        raise ValueError(f"stride is {target}; expected a divisor of the stride of the last feature, {stride}.")
    return stride // target
