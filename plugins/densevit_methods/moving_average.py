"""Teachers that are the exponential moving average (EMA) of a student."""

import math

from torch import Tensor, nn


def update_average(average: nn.Module, current: nn.Module, weight: Tensor | float) -> None:
    """Moves the floating-point tensors of `average` to those of `current` by this weight, 1 minus the EMA's momentum.

    Integer buffers, such as counters of batches, are copied. The modules have tensors of the same names and shapes.
    """
    for own, other in zip(average.state_dict().values(), current.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(other, weight.to(own.dtype) if isinstance(weight, Tensor) else weight)
        else:
            own.copy_(other)


def cosine_momentum(start: float, progress: Tensor) -> Tensor:
    """The momentum that rises from `start` to 1 by a cosine (BYOL, Grill et al. 2020, section 3.2).

    progress: share of the training that is done, in 0 ... 1.
    """
    return 1 - (1 - start) * (1 + (math.pi * progress).cos()) / 2
