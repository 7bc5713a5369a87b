"""Exponential moving average (EMA) of the model's weights (Polyak and Juditsky 1992)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from densevit.model.freezing import frozen_modules


class ExponentialMovingAverage:
    """Updates an average of the weights after each optimiser step; validation and the saved model use it.

    average <- decay * average + (1 - decay) * current, on the model's device, with one kernel for all tensors, in
    float32 for a model in half precision, where rounding would lose updates by a small weight. The average starts with
    the weights after the first step; with a warm-up, with the initial weights. Frozen parameters stay bit-identical;
    integer buffers, such as counters, are copied.

    decay: the weight of the old average, in [0, 1]. warmup: the decay of update n = 1, 2, ... is decay * (1 - exp(-n /
    warmup)), as in the code of RT-DETR (Zhao et al. 2024) and D-FINE (Peng et al. 2024); None: always `decay`.
    """

    def __init__(self, decay: float, warmup: int | None = None) -> None:
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self._current: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._restored: Mapping[str, Tensor] | None = None
        self._replaced: list[Tensor] = []  # the current weights, while the model has the average

    def start(self, state: Mapping[str, Tensor]) -> None:
        """Begins a run. state: the tensors to average, by their names in checkpoints; see `averaged_state`."""
        self._current = {name: x.detach() for name, x in state.items()}
        self._average = {name: _exact(x) for name, x in self._current.items()}
        if self._restored is not None:
            for name, x in self._average.items():
                x.copy_(self._restored[name])
            self._restored = None

    def update(self) -> None:
        """Updates the average after an optimiser step."""
        average, current = list(self._average.values()), list(self._current.values())
        self.updates += 1
        if self.updates == 1 and self.warmup is None:
            torch._foreach_copy_(average, current)
        else:
            ramp = 1.0 if self.warmup is None else -math.expm1(-self.updates / self.warmup)
            update_average(average, current, 1 - self.decay * ramp)

    def use(self) -> None:
        """Copies the average to the model, until `put_back`."""
        if self.updates:
            self._replaced = [x.clone() for x in self._current.values()]
            torch._foreach_copy_(list(self._current.values()), list(self._average.values()))

    def put_back(self) -> None:
        """Restores the current weights of the model."""
        if self._replaced:
            torch._foreach_copy_(list(self._current.values()), self._replaced)
            self._replaced = []

    # ---- checkpoints: `state_dict` has the average, and `current_model_state` the current weights ----

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Adds the average to a checkpoint of Lightning's."""
        state = checkpoint["state_dict"]
        checkpoint["current_model_state"] = {**state, **dict(zip(self._current, self._replaced, strict=False))}
        checkpoint["state_dict"] = {**state, **{name: x.clone() for name, x in self._average.items()}}
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self.updates)}

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Takes the average from a checkpoint, whose `state_dict` then has the current weights. Does nothing if the run
        was started without an average."""
        if "current_model_state" in checkpoint:
            self._restored = checkpoint["state_dict"]
            self.updates = int(checkpoint["averaging_state"]["n_averaged"])
            checkpoint["state_dict"] = checkpoint["current_model_state"]


def _exact(x: Tensor) -> Tensor:
    """A copy, in float32 instead of half precision."""
    return x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x.clone()


def update_average(average: list[Tensor], current: list[Tensor], weight: float) -> None:
    """Computes average + weight * (current - average) in place; exact if both are equal. Integer tensors are copied."""
    floating = [i for i, x in enumerate(average) if x.is_floating_point()]
    if floating:
        values = [current[i].to(average[i].dtype) for i in floating]
        torch._foreach_lerp_([average[i] for i in floating], values, weight)
    for i, x in enumerate(average):
        if not x.is_floating_point():
            x.copy_(current[i])


def averaged_state(model: nn.Module, method: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors to average by their names in checkpoints, without copies: the parameters and persistent
    buffers of the model's modules that are not frozen, and the trained parameters of the method, such as a decoder: its
    validation loss needs both."""
    state: dict[str, Tensor] = {f"model.{name}": x for name, x in model.state_dict(keep_vars=True).items()}
    model_tensors = set(map(id, state.values()))
    frozen = {id(x) for module in frozen_modules(model) for x in module.state_dict(keep_vars=True).values()}
    state = {name: x for name, x in state.items() if id(x) not in frozen}
    method_parameters = method.named_parameters(prefix="method")
    return state | {name: x for name, x in method_parameters if x.requires_grad and id(x) not in model_tensors}
