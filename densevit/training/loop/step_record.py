"""The record of an optimiser step, and its parts: moving batches to the device, the check of losses, gradient
reduction, clipping."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from densevit.errors import PluginError
from densevit.interfaces import Batch, Losses, Method, OptimizerStep
from densevit.model.target_checks import described
from densevit.training.loop.device_transfer import on_device
from densevit.training.loop.sharding import full_tensor, sharded_modules


@dataclass
class StepRecord:
    """An optimiser step in this process, for callbacks.

    number: counted from 1. image_ids: the images of all batches. terms: the loss terms, averaged over the batches.
    learning_rate: the largest of the parameter groups. gradient_norm: the norm of all gradients, before clipping.
    """

    number: int
    image_ids: list[int | str]
    terms: dict[str, Tensor] = field(default_factory=dict)
    learning_rate: float = 0.0
    gradient_norm: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def loss(self) -> Tensor:
        """The sum of the terms."""
        return torch.stack(list(self.terms.values())).sum()

    def add(self, losses: Losses, batches: int) -> None:
        """Adds the losses of a batch. batches: the number of batches."""
        for name, term in losses.items():
            term = term.detach().float() / batches
            self.terms[name] = self.terms[name] + term if name in self.terms else term


def reduce_gradients(wrapper: nn.Module | None, on: bool) -> None:
    """Sets whether backward passes average gradients over processes. wrapper: the Lightning strategy's module."""
    if isinstance(wrapper, DistributedDataParallel):
        wrapper.require_backward_grad_sync = on
    for module in sharded_modules(wrapper) if wrapper is not None else ():
        module.set_requires_gradient_sync(on, recurse=False)


def clip_gradients(module: nn.Module, limit: float | None, by_value: bool = False) -> Tensor:
    """Clips the norm of all gradients, or each value, at a limit; not at 0, as in Lightning. Returns the norm before
    clipping."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    if not parameters:
        return torch.zeros((), device=next(module.parameters()).device)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit and by_value:
        torch.nn.utils.clip_grad_value_(parameters, limit)
    elif limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return full_tensor(norm)


def check_losses(losses: Any, method: Method) -> None:
    """Raises PluginError unless `losses`, the result of the method's `training_step`, is a dict of one or more scalar
    tensors."""
    if (
        isinstance(losses, Mapping)
        and losses
        and all(isinstance(x, Tensor) and x.numel() == 1 for x in losses.values())
    ):
        return
    terms = losses.items() if isinstance(losses, Mapping) else ()
    returned = "{" + ", ".join(f"{name!r}: {described(x)}" for name, x in terms) + "}" if terms else described(losses)
    raise PluginError(
        f"method {type(method).__name__}: training_step returned {returned}; a dict of scalar tensors is expected, as "
        "in {'reconstruction': loss}."
    )


def moved(batch: OptimizerStep | Batch, device: torch.device, channels_last: bool) -> OptimizerStep | Batch:
    """Copies a batch, or the batches of an optimiser step, to a device (`on_device`)."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if isinstance(batch, OptimizerStep):
        return replace(batch, batches=tuple(on_device(part, device, layout) for part in batch.batches))
    return on_device(batch, device, layout)
