"""Batch samplers and collation: shuffled and resumable for training, one padded size per batch for evaluation."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import Sampler

from densevit.channels import RGB, Channels
from densevit.data.sample_checks import check_image
from densevit.grouping import grouped
from densevit.interfaces import Batch, Sample, Size
from densevit.layers.padding import padded


@dataclass(frozen=True, slots=True)
class SampleKey:
    """Index of a sample and the random state of its transform.

    index: the sample's index in the data set. seed: the seed of this epoch's random transforms. repeat: number of
    earlier occurrences of the sample in the epoch; training augments repeats differently, and evaluation does not count
    them. batch: position of the global batch in the epoch. final: whether the batch is in the final phase
    (`data.final_phase`).
    """

    index: int
    seed: int
    repeat: int = 0
    batch: int = 0
    final: bool = False


_ASPECT_EDGES = (0.8, 1.25)  # height / width: landscape, square, portrait


def collate(
    samples: Sequence[Sample], size_divisor: int | Size = 1, shared: bool = False, channels: Channels = RGB
) -> Batch:
    """Pads images with 0 at the bottom and right to their largest height and width, rounded up to `size_divisor`, or at
    least to a size (h, w).

    shared: allocates images and mask in shared memory, from which another process reads them without a copy.

    The padding mask is False inside each sample's `size`, by default its full image. Raises DataError for an image that
    is not (C, H, W) in these channels.

    Example:
        >>> scenes = densevit.create_dataset("scenes", image_size=60)
        >>> densevit.collate([scenes[0], scenes[1]], size_divisor=32)["images"].shape
        torch.Size([2, 3, 64, 64])
    """
    for position, sample in enumerate(samples):
        origin = f"Sample {position} of a batch (image {sample['targets'].get('image_id')!r})"
        check_image(sample["image"], sample["targets"], origin, channels)
    height, width = (max(sample["image"].shape[axis] for sample in samples) for axis in (1, 2))
    shape = (len(samples), len(channels.names), *padded((height, width), size_divisor))
    dtype = getattr(torch, channels.dtype)
    images, padding_mask = _empty(shape, dtype, shared), _empty((shape[0], *shape[2:]), torch.bool, shared)
    arrays = zip(images.numpy(), padding_mask.numpy(), strict=True)  # numpy: torch would start threads
    for sample, (image, mask) in zip(samples, arrays, strict=True):
        h, w = sample["image"].shape[1:]
        image[:, :h, :w] = sample["image"].numpy()
        image[:, h:], image[:, :h, w:] = 0, 0
        h, w = sample["targets"].get("size", (h, w))
        mask[:], mask[:h, :w] = True, False
    return {"images": images, "padding_mask": padding_mask, "targets": [sample["targets"] for sample in samples]}


def _empty(shape: tuple[int, ...], dtype: torch.dtype, shared: bool) -> torch.Tensor:
    """Returns an uninitialised tensor."""
    if not shared:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


def aspect_groups(sizes: np.ndarray) -> np.ndarray:
    """Returns a group number for each image, (N,): landscape, square or portrait. sizes: (N, 2) heights and widths."""
    return np.digitize(sizes[:, 0] / sizes[:, 1], _ASPECT_EDGES)


@runtime_checkable
class SupportsEpochIndices(Protocol):
    """A data set that determines how often each image occurs in an epoch."""

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """Returns the indices of a training epoch, (M,) int64, with the same M in every epoch. Indices may be repeated;
        each occurrence is augmented differently."""


@runtime_checkable
class SupportsShuffled(Protocol):
    """A data set that orders its training images itself, for faster reading or for a composition of batches."""

    def shuffled(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Returns the indices of an epoch in training order; None for a random order."""


@runtime_checkable
class SupportsBatchMultiple(Protocol):
    """A data set whose `shuffled` composes batches of this size; `data.batch_size` must be a multiple of it."""

    batch_multiple: int


class TrainBatches(Sampler[list[SampleKey]]):
    """Batch sampler for training: shuffled by seed and epoch, sharded over ranks, resumable.

    A global batch consists of `batch_size` samples per rank. Several ranks see the same global batches, in the same
    order, as one rank with a batch size of `batch_size * world_size`; either can resume the other's run.

    length: samples per epoch. epoch_indices: returns the (length,) indices of an epoch (`SupportsEpochIndices`); by
    default each index once. groups: a group number for each index of the data set; batches are of one group where
    possible. shuffled: orders the indices of an epoch (`SupportsShuffled`); batches then follow this order, by their
    first sample.

    Every rank gets the same number of batches. Samples that do not fill a global batch are dropped, different samples
    in each epoch; a smaller data set is repeated to fill one batch. `set_epoch` reshuffles. The state holds the number
    of batches consumed in the epoch (`position`) of `length`; iteration after `load_state_dict`
    continues at this share of the epoch. Another batch size composes other batches.

    same_batches: every epoch has the batches of the first. final_from: returns epoch and position of the first batch of
    the final phase, which a trainer knows once it has the loader; None: it is not reached.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: np.ndarray | None = None,
        epoch_indices: Callable[[int], np.ndarray] | None = None,
        shuffled: Callable[[np.ndarray, np.random.Generator], np.ndarray | None] | None = None,
        same_batches: bool = False,
        final_from: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.groups, self.epoch_indices, self.shuffled = groups, epoch_indices, shuffled
        self.same_batches, self.final_from = same_batches, final_from
        self.epoch = self.position = self._start = 0

    def __len__(self) -> int:
        """The number of batches per epoch on this rank."""
        return max(1, self.length // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        self.position = self._start
        first = self.rank * self.batch_size
        batches = self._epoch_batches()[self._start : len(self)]
        return iter([batch[first : first + self.batch_size] for batch in batches])

    @property
    def start(self) -> int:
        """The position at which the next iteration begins."""
        return self._start

    def advance(self, batches: int = 1) -> None:
        """Counts consumed batches. Resets the start here and not in `__iter__`: a DataLoader may call that twice."""
        self.position, self._start = self.position + batches, 0

    @property
    def sampler(self) -> "TrainBatches":
        """This object: Lightning calls `set_epoch` on a batch sampler's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch. Another epoch begins at its first batch; the same epoch keeps its position."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Returns the epoch, the position in it, its length and the seed."""
        return {"epoch": self.epoch, "position": self.position, "length": len(self), "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues after the last batch consumed; after the last batch of an epoch, with the next epoch."""
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self._start = int(state["position"]) * len(self) // int(state.get("length", len(self)))
        if self._start >= len(self):
            self.epoch, self._start = self.epoch + 1, 0
        self.position = self._start

    def _epoch_batches(self) -> list[list[SampleKey]]:
        """Returns the shuffled global batches of an epoch: full batches of each group, and batches of the remaining
        samples of all groups."""
        epoch = 0 if self.same_batches else self.epoch
        final_from = (math.inf, 0) if self.final_from is None else self.final_from()
        rng = np.random.default_rng([self.seed, epoch])
        seed = int(rng.integers(2**31))
        size = self.batch_size * self.world_size
        needed = size * len(self)
        indices = rng.permutation(self.length)  # (S,)
        if self.epoch_indices is not None:
            indices = self.epoch_indices(epoch)[indices]
        ordered = None if self.shuffled is None else self.shuffled(indices, rng)
        indices = indices if ordered is None else ordered
        if needed > self.length:
            indices = np.resize(indices, needed)
        repeats = _repeats(indices)
        groups = np.zeros(len(indices), np.int64) if self.groups is None else self.groups[indices]
        by_group = [np.flatnonzero(groups == group) for group in np.unique(groups)]  # positions in `indices`
        full = [members[: len(members) // size * size].reshape(-1, size) for members in by_group]
        rest = rng.permutation(np.concatenate([members[len(members) // size * size :] for members in by_group]))
        rows = np.concatenate([*full, rest[: len(rest) // size * size].reshape(-1, size)])
        rows = rows[rng.permutation(len(rows)) if ordered is None else rows.min(axis=1).argsort()]
        batches = zip(indices[rows].tolist(), repeats[rows].tolist(), strict=True)
        return [
            [
                SampleKey(index, seed, repeat, batch, (self.epoch, batch) >= final_from)
                for index, repeat in zip(row, times, strict=True)
            ]
            for batch, (row, times) in enumerate(batches)
        ]


MakeOrder = Callable[..., TrainBatches]
"""A constructor of `TrainBatches`, which may have bound arguments."""


def _repeats(indices: np.ndarray) -> np.ndarray:
    """Returns the number of earlier occurrences of each index, (S,)."""
    order = np.argsort(indices, kind="stable")
    in_order = indices[order]
    repeats = np.empty_like(order)
    repeats[order] = np.arange(len(order)) - np.searchsorted(in_order, in_order)
    return repeats


class EvaluationBatches(Sampler[list[SampleKey]]):
    """Batch sampler for evaluation: each image once over all ranks, batches of one padded size.

    sizes: (N, 2), the padded sizes; None: one image per batch. The numbers of batches of the ranks may differ by one.
    Large images come first, so that insufficient memory fails early.

    A rank without a batch would miss the collective operations of the other ranks. It gets an image of another rank as
    a repeat, which is not counted.
    """

    def __init__(
        self, length: int, sizes: np.ndarray | None, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if sizes is None:
            batches = [[index] for index in range(length)]
        else:
            groups = grouped((tuple(size), index) for index, size in enumerate(sizes.tolist()))
            batches = [
                members[i : i + batch_size]
                for _, members in sorted(groups.items(), key=lambda group: -group[0][0] * group[0][1])
                for i in range(0, len(members), batch_size)
            ]
        self._batches = [[SampleKey(index, 0) for index in batch] for batch in batches[rank::world_size]]
        if batches and not self._batches:
            self._batches = [[SampleKey(batches[-1][0], 0, repeat=1)]]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return iter(self._batches)
