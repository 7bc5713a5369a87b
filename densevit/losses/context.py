"""What a loss depends on besides outputs and targets: the processes and batches of its optimiser step.

A loss divided by the objects of its own batch is not that of a large batch once gradients are averaged over processes
and accumulated batches: batches of 1 and of 9 objects would count the same. Losses are therefore divided by means over
all processes and batches of the step. The counts of all batches are known from their targets before the first one is
trained on (`Head.loss_counts`, `DenseModel.loss_context`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, distributed

from densevit.losses.distributed import process_count, to_device

Counts = dict[str, float]
"""What the loss terms of a head are divided by, of one batch, by name."""


@dataclass(frozen=True)
class LossContext:
    """The processes and batches over which the gradients of an optimiser step are averaged; by default one of each.

    processes: their number. group: theirs, of torch.distributed; None: the default group.
    batches: number of accumulated batches. counts: means of `Head.loss_counts` over the batches and processes, by name;
        of a model with several heads by HEAD/NAME. Empty: not known.
    step: number of the optimiser step, from 0.
    finite_costs: whether a matching cost that is not finite is an error that names its image. Trainings set False: the
        loss is then not finite either, which all processes detect at once; an error in one would leave the others
        waiting for it.
    """

    processes: int = 1
    batches: int = 1
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    finite_costs: bool = True
    group: Any = None

    @classmethod
    def of_processes(cls, **fields: Any) -> "LossContext":
        """That of all processes of torch.distributed, if it is initialised. fields: the others."""
        return cls(processes=process_count(), **fields)

    def of_head(self, name: str) -> "LossContext":
        """That of one head: with its counts only."""
        prefix = f"{name}/"
        counts = {key.removeprefix(prefix): count for key, count in self.counts.items() if key.startswith(prefix)}
        return replace(self, counts=counts)

    def mean(self, x: Tensor) -> Tensor:
        """Mean of x over the processes; x itself with one."""
        return x if self.processes == 1 else self.sum(x) / self.processes

    def sum(self, x: Tensor) -> Tensor:
        """Sum of x over the processes; x itself with one."""
        if self.processes == 1:
            return x
        x = x.clone()
        distributed.all_reduce(x, group=self.group)
        return x

    def mean_counts(self, **counts: Tensor) -> list[Tensor]:
        """Counts of this batch, scalars or (L,), as means over the processes and accumulated batches of the step.

        A loss divided by them is, summed over the step, divided by the total. Counts of which the head says nothing in
        `loss_counts` are means over the processes only.
        """
        if all(name in self.counts for name in counts):
            return [self.counts[name].expand_as(count) for name, count in counts.items()]
        if len(counts) == 1:
            return [self.mean(count) for count in counts.values()]
        together = self.mean(torch.cat([count.reshape(-1) for count in counts.values()]))
        parts = together.split([count.numel() for count in counts.values()])
        return [part.view_as(count) for part, count in zip(parts, counts.values(), strict=True)]

    def least_mean(self, total: float = 1.0) -> float:
        """A lower bound of the total, for a mean of `mean_counts`."""
        return total / (self.processes * (self.batches if self.counts else 1))


def step_context(counts: Mapping[str, Sequence[Counts]], batches: int, step: int, device: torch.device) -> LossContext:
    """The context of an optimiser step. counts: of each of its batches, by head; they are reduced over processes once.

    batches: by which the step's gradients are divided; the last step of an epoch may have fewer.
    """
    keys = [(head, name) for head, each in counts.items() for name in each[0]]
    context = LossContext.of_processes(batches=batches, step=step)
    if not keys:
        return context
    sums = [sum(one[name] for one in counts[head]) / batches for head, name in keys]
    means = context.mean(to_device(torch.tensor(sums, dtype=torch.float32), device))
    return replace(context, counts={f"{head}/{name}": mean for (head, name), mean in zip(keys, means, strict=True)})
