"""What differs while a model is traced for an exported file: sizes are symbols, and shapes depend on no value."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor


def is_exporting() -> bool:
    """Whether `torch.export` traces the model, with symbolic sizes; False under torch.compile."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


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
    """The indices (M,) of the rows to compute, of keep (N,) bool: those to keep.

    While a file is traced, all rows: their number must not depend on values before the last step, `kept_rows`.
    """
    return torch.arange(keep.shape[0], device=keep.device) if is_exporting() else keep.nonzero()[:, 0]


def kept_rows(keep: Tensor, computed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows to keep of values (M, ...) of `computed_rows`, which are all, except while a file is traced.

    keep: (M,) bool, of the computed rows.
    """
    return {key: value[keep] for key, value in computed.items()} if is_exporting() else computed


def repeat(step: Callable[[Tensor], tuple[Tensor, Tensor]], state: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """Applies a step until it does not change the state (N,). While a file is traced, this is a loop of the file.

    step: returns the next state, and a result of the state that it was given. result: a tensor of the result's shape
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
