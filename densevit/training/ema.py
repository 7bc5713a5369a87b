"""A running mean of the weights, which leaves what stands still as it is, to the last bit."""

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class RunningMean(WeightAveraging):
    """The exponential moving average of all weights and buffers after each optimiser step, on the model's device.

    Lightning's own (`EMAWeightAveraging`) adds two products, which changes the last bits of frozen weights, and makes
    whole numbers smaller, such as counts.
    """

    def __init__(self, decay: float) -> None:
        def mean(averaged: Tensor, current: Tensor, count: Tensor) -> Tensor:
            return towards(averaged, current, 1 - decay)

        super().__init__(device=None, use_buffers=True, avg_fn=mean)


def towards(averaged: Tensor, current: Tensor, share: float) -> Tensor:
    """averaged + share (current - averaged): exactly either where both are the same. Whole numbers are current's."""
    return torch.lerp(averaged, current, share) if averaged.is_floating_point() else current
