"""Exponential moving average (EMA) of the model's weights (Polyak and Juditsky 1992)."""

import math
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor


class ExponentialMovingAverage(lightning.Callback):
    """Updates the average after each optimiser step; validation and the saved model use the average.

    The trained parameters of the method, such as a decoder, are averaged too: its validation loss needs both.

    average <- decay * average + (1 - decay) * current, on the model's device, with one kernel for all tensors, in
    float32 for a model in half precision, where rounding would lose updates by a small weight. The average starts with
    the weights after the first step; with a warm-up, with the initial weights. Frozen parameters stay bit-identical;
    integer buffers, such as counters, are copied.

    It must be the first callback: checkpoints then include the average of the same step, and the model has its current
    weights. In checkpoints `state_dict` contains the average and `current_model_state` the current weights.

    decay: in [0, 1]. warmup: the decay of update n = 1, 2, ... is decay * (1 - exp(-n / warmup)), as in the code of
    RT-DETR (Zhao et al. 2024) and D-FINE (Peng et al. 2024); None: always `decay`.
    """

    def __init__(self, decay: float, warmup: int | None = None) -> None:
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self._current: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] | None = None
        self._last_step = 0
        self._replaced: list[Tensor] = []  # the current weights, while the model has the average

    # ---- training ----

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._current = {name: x.detach() for name, x in _averaged_state(pl_module).items()}
        self._average = {name: _exact(x) for name, x in self._current.items()}
        if self._restored is not None:
            for name, x in self._restored.items():
                self._average[name].copy_(x)
            self._restored = None
        self._last_step = trainer.global_step

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._last_step = trainer.global_step  # a resumed run restores it after on_fit_start

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._last_step:  # gradients accumulate
            return
        self._last_step = trainer.global_step
        names = list(self._average)
        average, current = [self._average[name] for name in names], [self._current[name] for name in names]
        self.updates += 1
        if self.updates == 1 and self.warmup is None:
            torch._foreach_copy_(average, current)
        else:
            ramp = 1.0 if self.warmup is None else -math.expm1(-self.updates / self.warmup)
            update_average(average, current, 1 - self.decay * ramp)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.updates:
            torch._foreach_copy_(list(self._current.values()), list(self._average.values()))

    # ---- validation ----

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == "fit" and self.updates:
            self._replaced = [x.clone() for x in self._current.values()]
            torch._foreach_copy_(list(self._current.values()), list(self._average.values()))

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._replaced:
            torch._foreach_copy_(list(self._current.values()), self._replaced)
            self._replaced = []

    # ---- checkpoints ----

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            **checkpoint["state_dict"],
            **{name: x.clone() for name, x in self._average.items()},
        }
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self.updates)}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "current_model_state" not in checkpoint:  # the run was started without EMA
            return
        self._restored = {name: checkpoint["state_dict"][name] for name in _averaged_state(pl_module)}
        self.updates = int(checkpoint["averaging_state"]["n_averaged"])
        pl_module.load_state_dict(checkpoint["current_model_state"])


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


def _averaged_state(pl_module: lightning.LightningModule) -> dict[str, Tensor]:
    """Returns, by checkpoint key and without copies, the model's parameters and persistent buffers and the trained
    parameters that only the method has."""
    model, method = pl_module.model, getattr(pl_module, "method", None)
    assert isinstance(model, torch.nn.Module)
    state: dict[str, Tensor] = {f"model.{name}": x for name, x in model.state_dict(keep_vars=True).items()}
    of_model = set(map(id, state.values()))
    if isinstance(method, torch.nn.Module):
        of_method = method.named_parameters(prefix="method")
        state |= {name: x for name, x in of_method if x.requires_grad and id(x) not in of_model}
    return state
