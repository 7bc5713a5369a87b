"""Warnings if a method learns nothing: constant features, or a loss that does not fall."""

import warnings
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

_LEAST_VARIANCE = 0.01  # backbones with random weights have 0.1 to 0.8 on rendered scenes
_FEWEST_STEPS = 100


class Collapse(lightning.Callback):
    """Warns if features are nearly the same for all images (collapse of self-supervised learning), and at the end of
    the run if no term of the loss fell.

    The features are the backbone's coarsest, averaged over the image. Their variance over the images of a batch, summed
    over the channels, is divided by their mean square: 0 for equal features, about 1 for features with mean 0. Each
    process computes it in training, from validation to validation; there is no warning in the first 100 steps. Models
    with heads are not checked, because a good detector of small objects may have constant coarse features.
    """

    def __init__(self) -> None:
        self._steps = 0  # of the run
        self._terms: list[dict[str, Tensor]] = [{}, {}]  # sums of the first and the last tenth of the steps
        self._batches = [0, 0]
        self._variance: list[Tensor] = []
        self._hook: RemovableHandle | None = None
        self._warned = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        module: Any = pl_module
        self._steps = module.training_steps or 0
        if not module.model.heads:
            self._hook = module.model.backbone.register_forward_hook(self._measure)

    def _measure(self, module: torch.nn.Module, inputs: Any, features: Any) -> None:
        if module.training and len(features[-1]) > 1 and not torch.compiler.is_compiling():
            pooled = features[-1].detach().float().mean((2, 3))  # (B, C)
            self._variance.append(torch.stack([pooled.var(0).sum(), pooled.square().mean(0).sum()]))

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        module: Any = pl_module
        tenth = min(9, 10 * max(0, trainer.global_step - 1) // max(1, self._steps))
        if tenth in (0, 9):
            sums, part = self._terms[tenth > 0], module.record.terms
            self._batches[tenth > 0] += 1
            for name, value in part.items():
                sums[name] = sums[name] + value if name in sums else value.clone()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        measured, self._variance = self._variance, []
        if not measured or trainer.global_step < _FEWEST_STEPS or not trainer.is_global_zero:
            return
        variance, square = torch.stack(measured).sum(0).tolist()
        if variance < _LEAST_VARIANCE * square and not self._warned:
            self._warned = True
            warnings.warn(
                f"The backbone's features are nearly the same for all images: their variance is {variance / square:.2g}"
                f" of their mean square, averaged over {len(measured):,} batches; features with random weights have "
                "0.1 to 0.8. The training may have collapsed. Fix: a lower optim.lr, or other options of the method.",
                stacklevel=1,  # the caller is Lightning, whose warnings are not shown
            )

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._hook is not None:
            self._hook.remove()
        if self._steps < _FEWEST_STEPS or not all(self._batches) or not trainer.is_global_zero:
            return
        first, last = (
            {name: float(x) / count for name, x in sums.items()}
            for sums, count in zip(self._terms, self._batches, strict=True)
        )
        if not any(last.get(name, value) < value for name, value in first.items()):
            means = ", ".join(f"{name} {first[name]:.4g} and {last[name]:.4g}" for name in first if name in last)
            warnings.warn(
                f"The loss did not fall: its terms were, on average over the first and the last tenth of the steps, "
                f"{means}. Fix: train longer, with another optim.lr, or check the images and the method's options.",
                stacklevel=1,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"terms": self._terms, "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._terms, self._batches = state["terms"], state["batches"]
