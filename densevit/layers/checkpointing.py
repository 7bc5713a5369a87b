"""Activation checkpointing (Chen et al. 2016): activations are recomputed in the backward pass.

The second forward pass leaves the running statistics of batch norms as they are: each batch counts once.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run(part: nn.Module, *inputs: Any, checkpointed: bool) -> Any:
    """Returns part(*inputs), with activation checkpointing if `checkpointed` and gradients are enabled."""
    if not (checkpointed and torch.is_grad_enabled()):
        return part(*inputs)
    if torch.compiler.is_compiling():  # a compiled graph updates statistics only once
        return checkpoint(part, *inputs, use_reentrant=False)
    return checkpoint(
        part, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _frozen_statistics(_batch_norms(part)))
    )


def update_statistics_once(model: nn.Module) -> None:
    """Keeps the recomputation of a model that checkpoints its parts itself, such as timm's, from updating statistics.

    A forward pass within a backward pass is such a recomputation.
    """
    for norm in _batch_norms(model):
        norm.register_forward_pre_hook(_before)
        norm.register_forward_hook(_after, always_call=True)


def _before(norm: nn.Module, inputs: Any) -> None:
    recomputed = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
    norm._recomputation = _frozen_statistics([norm]) if recomputed else None  # type: ignore[assignment]
    if recomputed:
        norm._recomputation.__enter__()  # type: ignore[operator,union-attr]


def _after(norm: nn.Module, inputs: Any, outputs: Any) -> None:
    context: Any = norm._recomputation
    del norm._recomputation  # a generator cannot be pickled
    if context is not None:
        context.__exit__(None, None, None)


def _batch_norms(module: nn.Module) -> list[Any]:
    return [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def _frozen_statistics(norms: list[Any]) -> Iterator[None]:
    """A context in which batch norms do not update running statistics (momentum 0); normalisation is unchanged."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
