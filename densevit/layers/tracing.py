"""Helpers for export tracing: symbolic sizes, no data-dependent shapes."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor


def is_exporting() -> bool:
    """Whether `torch.export` traces the model, with symbolic sizes; False under torch.compile."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def has_values(x: Tensor) -> bool:
    """Whether the values of a tensor can be read: not those of meta and fake tensors, nor while a model is traced."""
    return not (x.is_meta or isinstance(x, FakeTensor | FunctionalTensor) or torch.compiler.is_compiling())


def sides(size: Sequence[Any]) -> tuple[int, int]:
    """(h, w) as integers, or as symbols while sizes are traced: `int` would make a symbol a constant of the file."""
    h, w = (cast(int, side) if isinstance(side, torch.SymInt) else int(side) for side in size)
    return h, w


def as_tensor(values: Sequence[Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """(N,) on the CPU: numbers as a tensor, also symbols, which `torch.tensor` would make constants of the file."""
    if any(isinstance(value, torch.SymInt | torch.SymFloat) for value in values):
        return torch.stack([torch.full((), value, dtype=dtype) for value in values])
    return torch.tensor([float(value) for value in values], dtype=dtype)


def rolled(x: Tensor, steps: tuple[int, int]) -> Tensor:
    """A map (B, H, W, C) rolled up and left by `steps` cells. A file has `Tensor.roll` only with constant steps."""
    if not is_exporting():
        return x.roll((-steps[0], -steps[1]), dims=(1, 2))
    for axis, step in enumerate(steps, start=1):
        side = x.shape[axis]
        index = torch.arange(side, device=x.device) + step
        x = x.index_select(axis, torch.where(index < side, index, index - side))
    return x


def computed_rows(keep: Tensor) -> Tensor:
    """Indices (M,) of the rows where keep (N,) bool is true.

    While a file is traced, also of the first row, as operators of a file may need at least one: see `kept_rows`.
    """
    return (torch.cat([torch.ones_like(keep[:1]), keep[1:]]) if is_exporting() else keep).nonzero()[:, 0]


def kept_rows(keep: Tensor, computed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes the row that was computed only because a file is traced; see `computed_rows`.

    keep: (M,) bool. computed: tensors (M, ...) of the computed rows, by name.
    """
    return {key: value[keep] for key, value in computed.items()} if is_exporting() else computed


def repeat(step: Callable[[Tensor], tuple[Tensor, Tensor]], state: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """Applies a step until it does not change the state (N,); a loop in an exported file.

    step: maps a state to the next state and a result. result: a tensor of the result's shape
    and type. Returns the last state and its result.
    """

    def next_state(state: Tensor, result: Tensor, done: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        new, result = step(state)
        return new, result, (new == state).all()

    done = torch.zeros((), dtype=torch.bool, device=state.device)
    if is_exporting():
        from torch._higher_order_ops.while_loop import while_loop  # not in all versions of torch

        state, result, _ = while_loop(lambda state, result, done: ~done, next_state, (state, result, done))
        return state, result
    while not done:
        state, result, done = next_state(state, result, done)
    return state, result
