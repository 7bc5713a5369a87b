"""Normalisers of losses over all images of an optimiser step: those of all processes and of all accumulated batches.

A loss divided by the objects of its own batch is not that of a large batch once gradients accumulate: batches of 1 and
of 9 objects would count the same. The counts of all batches of a step are known from their targets before the first
one is trained on (`Head.loss_counts`); within `accumulated`, losses are divided by their mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from densevit.losses.distributed import mean_over_processes, process_count, to_device

Counts = dict[str, float]
"""What the loss terms of a head are divided by, of one batch, by name."""


class StepCounts(NamedTuple):
    """batches: of an optimiser step. means: of the counts, over these batches and all processes, by head."""

    batches: int
    means: dict[str, dict[str, Tensor]]


_step = StepCounts(1, {})
_head: dict[str, Tensor] = {}


def step_counts(counts: Mapping[str, Sequence[Counts]], batches: int, device: torch.device) -> StepCounts:
    """Adds up the counts of a step's batches, by head, and reduces them over processes once.

    batches: by which the step's gradients are divided; the last step of an epoch may have fewer.
    """
    keys = [(head, name) for head, each in counts.items() for name in each[0]]
    if not keys:
        return StepCounts(batches, {})
    sums = [sum(one[name] for one in counts[head]) / batches for head, name in keys]
    means = mean_over_processes(to_device(torch.tensor(sums, dtype=torch.float32), device))
    found: dict[str, dict[str, Tensor]] = {}
    for (head, name), mean in zip(keys, means, strict=True):
        found.setdefault(head, {})[name] = mean
    return StepCounts(batches, found)


@contextmanager
def accumulated(step: StepCounts) -> Iterator[None]:
    """Within it, the losses of a `DenseModel` are normalised over the optimiser step."""
    global _step
    before, _step = _step, step
    try:
        yield
    finally:
        _step = before


@contextmanager
def of_head(name: str) -> Iterator[dict[str, Tensor]]:
    """Within it, `mean_counts` are those of this head. Yields them; none unless gradients accumulate."""
    global _head
    before, _head = _head, _step.means.get(name, {})
    try:
        yield _head
    finally:
        _head = before


def mean_counts(**counts: Tensor) -> list[Tensor]:
    """Counts of this batch, scalars or (L,), as means over the processes and accumulated batches of the step.

    A loss divided by them is, summed over the step, divided by the total. Counts of which the head says nothing in
    `loss_counts` are means over the processes only.
    """
    if all(name in _head for name in counts):
        return [_head[name].expand_as(count) for name, count in counts.items()]
    if len(counts) == 1:
        return [mean_over_processes(count) for count in counts.values()]
    together = mean_over_processes(torch.cat([count.reshape(-1) for count in counts.values()]))
    parts = together.split([count.numel() for count in counts.values()])
    return [part.view_as(count) for part, count in zip(parts, counts.values(), strict=True)]


def least_mean(total: float = 1.0) -> float:
    """A lower bound of the total, for a mean of `mean_counts`."""
    return total / (process_count() * (_step.batches if _head else 1))
