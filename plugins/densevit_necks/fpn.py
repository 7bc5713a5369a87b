"""Feature pyramid network (Lin et al. 2017): what the coarse features know, at the resolution of the fine ones."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Neck


class FPN(Neck):
    """A 1x1 convolution on each feature, top-down sums, and a 3x3 convolution on each sum (section 3).

    A coarser map is brought to the next finer one's exact size by its nearest cells, so that maps of odd sizes fit, and
    neighbours of one stride (a dilated stage) are added as they are. Any number of features, one too.

    width: channels of each result.
    extra_levels: further levels of twice the stride each, every second cell of the one before (section 4.1's P6).
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], width: int = 256, extra_levels: int = 0
    ) -> None:
        super().__init__(channels, strides)
        if width < 1:
            raise ValueError(f"width is {width}; expected a number of channels, 1 or more.")
        if not 0 <= extra_levels <= 16:
            raise ValueError(f"extra_levels is {extra_levels}; expected a number of levels, from 0 to 16.")
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.extra_levels = extra_levels
        self.strides = (*strides, *(strides[-1] * 2 ** (i + 1) for i in range(extra_levels)))
        self.channels = (width,) * len(self.strides)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """(B, C_i, H_i, W_i) each -> (B, width, H_i, W_i) each, and extra levels of ceil(H / 2) x ceil(W / 2)."""
        sums = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for i in range(len(sums) - 2, -1, -1):
            sums[i] = sums[i] + _at_size(sums[i + 1], sums[i].shape[-2:])
        results = [output(x) for output, x in zip(self.output, sums, strict=True)]
        for _ in range(self.extra_levels):
            results.append(F.max_pool2d(results[-1], 1, stride=2))
        return results


def _at_size(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="nearest")
