"""Teachers that are the exponential moving average (EMA) of a student, and buffers that stay in float32.

With `trainer.precision: bf16-true` all tensors of a model are in bf16, in which rounding loses updates with a small
weight.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """Keeps a teacher's tensors as the exponential moving average of a student's tensors of the same names and shapes.

    For a teacher in half precision, the average is kept in float32 and the teacher gets the rounded values. Integer
    buffers, such as counters of batches, are copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact = torch.zeros(0)  # the float32 values of all tensors in half precision, concatenated

    @torch.no_grad()
    def update(self, teacher: nn.Module, student: nn.Module, weight: Tensor | float) -> None:
        """Moves the teacher's tensors to the student's by this weight, 1 minus the EMA's momentum."""
        pairs = list(zip(teacher.state_dict().values(), student.state_dict().values(), strict=True))
        halves = [average for average, _ in pairs if average.is_floating_point() and average.dtype.itemsize < 4]
        if halves and not len(self._exact):
            self._exact = torch.cat([average.float().flatten() for average in halves])
        self._exact = self._exact.to(next((average.device for average in halves), self._exact.device))
        parts = iter(self._exact.split([average.numel() for average in halves]))
        for average, current in pairs:
            if not average.is_floating_point():
                average.copy_(current)
                continue
            exact = average if average.dtype.itemsize >= 4 else next(parts).view_as(average)
            exact.lerp_(current.to(exact.dtype), weight.to(exact.dtype) if isinstance(weight, Tensor) else weight)
            if exact is not average:
                average.copy_(exact)

    def get_extra_state(self) -> Tensor:
        return self._exact

    def set_extra_state(self, state: Tensor) -> None:
        self._exact = state.clone()


class Float32Buffer(nn.Module):
    """A buffer `value` that stays in float32 when its module is converted to another precision."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.float())

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Float32Buffer":
        value = self.value
        super()._apply(fn, recurse)
        self.value = value.to(self.value.device)
        return self


def cosine_momentum(start: float, progress: float) -> float:
    """The momentum that rises from `start` to 1 by a cosine (BYOL, Grill et al. 2020, section 3.2).

    progress: share of the run that is done, in 0 ... 1.
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2
