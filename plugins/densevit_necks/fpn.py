"""Feature pyramid network (FPN, Lin et al. 2017): combines coarse semantic and fine features top-down."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Neck


class FPN(Neck):
    """A 1x1 convolution on each feature, top-down sums, and a 3x3 convolution on each sum (section 3).

    Coarse maps are resized by nearest neighbour to the exact size of the next finer map; maps of equal stride (dilated
    stages) are added without resizing. Accepts any number of features, at least one.

    width: channels of each output.
    extra_levels: additional levels, each subsampled by 2 from the previous one (P6 in section 4.1).
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], width: int = 256, extra_levels: int = 0
    ) -> None:
        super().__init__(channels, strides)
        if not 1 <= width <= 65536:
            raise ValueError(f"width is {width}; expected a number of channels from 1 to 65536.")
        if not 0 <= extra_levels <= 16:
            raise ValueError(f"extra_levels is {extra_levels}; expected a number of levels from 0 to 16.")
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.extra_levels = extra_levels
        self.strides = (*strides, *(strides[-1] * 2 ** (i + 1) for i in range(extra_levels)))
        self.channels = (width,) * len(self.strides)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # bias exists

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """(B, C_i, H_i, W_i) each -> (B, width, H_i, W_i) each, and extra levels of ceil(H / 2) x ceil(W / 2)."""
        sums = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for i in range(len(sums) - 2, -1, -1):
            sums[i] = sums[i] + _resize(sums[i + 1], sums[i].shape[-2:])
        outputs = [output(x) for output, x in zip(self.output, sums, strict=True)]
        for _ in range(self.extra_levels):
            outputs.append(F.max_pool2d(outputs[-1], 1, stride=2))
        return outputs


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="nearest")
