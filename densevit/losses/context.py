"""Loss normalisers over the processes and accumulated batches of an optimiser step.

If each loss were divided by the objects of its own batch, the gradients averaged over processes and accumulated batches
would differ from the gradients of one large batch: batches of 1 and of 9 objects would count the same. Losses are
therefore divided by means over all processes and batches of the step. The counts of all batches are computed from their
targets before the first batch is trained on (`Head.loss_counts`, `DenseModel.loss_context`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, distributed

from densevit.losses.distributed import process_count, to_device

Counts = dict[str, float]
"""The normalisers of a head's loss terms for one batch, by name."""


@dataclass(frozen=True)
class LossContext:
    """The processes and batches over which the gradients of an optimiser step are averaged; by default one of each.

    processes: number of processes. group: their group in torch.distributed; None: the default group.
    batches: number of accumulated batches. counts: means of `Head.loss_counts` over the batches and processes, by name;
        by HEAD/NAME for a model with several heads. Empty: not known.
    step: number of the optimiser step, from 0. The share of the run that is done: `Head.set_progress`.
    raise_on_non_finite: raises for a matching cost that is not finite, with the image's name. Runs set False: the loss
        is then not finite either, which all processes detect together; an error in one process would leave the others
        waiting.

    Example:
        >>> import torch
        >>> context = densevit.LossContext(processes=1)
        >>> [objects] = context.mean_counts(objects=torch.tensor(8.0))
        >>> objects
        tensor(8.)
    """

    processes: int = 1
    batches: int = 1
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    raise_on_non_finite: bool = True
    group: Any = None

    @classmethod
    def across_processes(cls, **fields: Any) -> "LossContext":
        """The context of all processes of torch.distributed, if it is initialised. fields: all other fields."""
        return cls(processes=process_count(), **fields)

    def for_head(self, name: str) -> "LossContext":
        """The context of one head, with the head's counts only."""
        prefix = f"{name}/"
        counts = {key.removeprefix(prefix): count for key, count in self.counts.items() if key.startswith(prefix)}
        return replace(self, counts=counts)

    def mean(self, x: Tensor) -> Tensor:
        """Mean of x over the processes; x itself if there is one process."""
        return x if self.processes == 1 else self.sum(x) / self.processes

    def sum(self, x: Tensor) -> Tensor:
        """Sum of x over the processes; x itself if there is one process."""
        if self.processes == 1:
            return x
        x = x.clone()
        distributed.all_reduce(x, group=self.group)
        return x

    def mean_counts(self, **counts: Tensor) -> list[Tensor]:
        """Counts of this batch, scalars or (L,), as means over the processes and accumulated batches of the step.

        A loss divided by these means is normalised over the complete step. Counts that the head's `loss_counts` does
        not contain are means over the processes only.
        """
        if all(name in self.counts for name in counts):
            return [self.counts[name].expand_as(count) for name, count in counts.items()]
        if len(counts) == 1:
            return [self.mean(count) for count in counts.values()]
        together = self.mean(torch.cat([count.reshape(-1) for count in counts.values()]))
        parts = together.split([count.numel() for count in counts.values()])
        return [part.view_as(count) for part, count in zip(parts, counts.values(), strict=True)]

    def min_normalizer(self, total: float = 1.0) -> float:
        """The lower bound of a mean of `mean_counts` that corresponds to a lower bound `total` of the step's sum."""
        return total / (self.processes * (self.batches if self.counts else 1))


def step_context(counts: Mapping[str, Sequence[Counts]], batches: int, step: int, device: torch.device) -> LossContext:
    """The context of an optimiser step. counts: the counts of its batches, by head; reduced over processes once.

    batches: the number by which the step's gradients are divided; the last step of an epoch may have fewer batches.
    """
    keys = [(head, name) for head, each in counts.items() for name in each[0]]
    context = LossContext.across_processes(batches=batches, step=step)
    if not keys:
        return context
    sums = [sum(batch[name] for batch in counts[head]) / batches for head, name in keys]
    means = context.mean(to_device(torch.tensor(sums, dtype=torch.float32), device))
    return replace(context, counts={f"{head}/{name}": mean for (head, name), mean in zip(keys, means, strict=True)})


def loss_normalizers(objects: Sequence[int], num_queries: int, no_object_weight: float) -> Counts:
    """The normalisers of losses with the class "no object": `objects`, their number, and `objects_weights`, the sum of
    the class weights of queries.

    objects: the number of objects of each labelled image. num_queries: the number of queries of an image.
    """
    matched = sum(min(count, num_queries) for count in objects)
    weights = matched + no_object_weight * (len(objects) * num_queries - matched)
    return {"objects": sum(objects), "objects_weights": weights}
