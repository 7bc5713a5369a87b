"""Samples into batches, and which samples: shuffled and resumable to train, of one padded size to evaluate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from densevit.interfaces import Batch, Sample


@dataclass(frozen=True, slots=True)
class SampleKey:
    """Which sample, and how it is transformed at random.

    index: of the data set. seed: of the epoch's random transforms. repeat: how often the epoch has the sample before
    this one; a repeat in training is augmented in another way, and in evaluation it is not counted.
    """

    index: int
    seed: int
    repeat: int = 0


_ASPECT_EDGES = (0.8, 1.25)  # height / width: lying images, squarish ones, upright ones


def collate(samples: Sequence[Sample], multiple: int = 1) -> Batch:
    """Pads images with 0 at the bottom and right, to the largest height and width of them, rounded up to `multiple`.

    The padding mask leaves free what each sample's `size` says, where it says so, else its whole image.
    """
    height, width = (max(sample["image"].shape[axis] for sample in samples) for axis in (1, 2))
    shape = (len(samples), 3, *padded((height, width), multiple))
    images, padding_mask = np.empty(shape, np.uint8), np.ones((shape[0], *shape[2:]), dtype=bool)
    for sample, image, mask in zip(samples, images, padding_mask, strict=True):  # numpy: torch would start threads
        h, w = sample["image"].shape[1:]
        image[:, :h, :w] = sample["image"].numpy()
        image[:, h:], image[:, :h, w:] = 0, 0
        h, w = sample["targets"].get("size", (h, w))
        mask[:h, :w] = False
    targets = [sample["targets"] for sample in samples]
    return {"images": torch.from_numpy(images), "padding_mask": torch.from_numpy(padding_mask), "targets": targets}


def padded(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(h, w) rounded up to multiples."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def aspect_groups(sizes: np.ndarray) -> np.ndarray:
    """(N,) a group an image by its shape: lying, squarish or upright. sizes: (N, 2) heights and widths."""
    return np.digitize(sizes[:, 0] / sizes[:, 1], _ASPECT_EDGES)


class TrainBatches(Sampler[list[SampleKey]]):
    """Lists of picks for training, in an order that follows from seed and epoch, dealt out to the ranks.

    length: samples an epoch. epoch_indices: takes an epoch's number and gives the (length,) indices that it shows, see
    `Dataset.epoch_indices`; by default each index once. groups: a number for each index of the data set; a batch is of
    one group, as far as it goes.

    Every rank gets the same number of batches. What does not fill a batch for each is left out, other samples each
    epoch; a data set smaller than that is repeated to fill one. `set_epoch` shuffles anew. A state says how many
    batches of its epoch were handed on (`position`), and the iteration that follows `load_state_dict` starts there.
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
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.groups, self.epoch_indices = groups, epoch_indices
        self.epoch = self.position = self._start = 0

    def __len__(self) -> int:
        """Batches an epoch, of this rank."""
        return max(1, self.length // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        self.position = self._start
        return iter(self._epoch_batches()[self.rank :: self.world_size][self._start : len(self)])

    def advance(self) -> None:
        """Counts a batch as handed on. Only this ends a resumption: a DataLoader may ask twice for the iterator."""
        self.position, self._start = self.position + 1, 0

    @property
    def sampler(self) -> "TrainBatches":
        """Itself: Lightning calls `set_epoch` on a batch sampler's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order. A new epoch begins at its first batch; the one of a loaded state goes on where it was."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Plain numbers."""
        return {"epoch": self.epoch, "position": self.position, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on after the state's last batch; after an epoch's last one, with the next epoch."""
        self.seed, self.epoch, self._start = int(state["seed"]), int(state["epoch"]), int(state["position"])
        if self._start >= len(self):
            self.epoch, self._start = self.epoch + 1, 0
        self.position = self._start

    def _epoch_batches(self) -> list[list[SampleKey]]:
        """All ranks' batches of this epoch, shuffled: the full ones of each group, and those of what is left of all."""
        rng = np.random.default_rng([self.seed, self.epoch])
        seed = int(rng.integers(2**31))
        size, needed = self.batch_size, self.batch_size * self.world_size * len(self)
        indices = rng.permutation(self.length)  # (S,)
        if self.epoch_indices is not None:
            indices = self.epoch_indices(self.epoch)[indices]
        if needed > self.length:
            indices = np.resize(indices, needed)
        repeats = _repeats(indices)
        groups = np.zeros(len(indices), np.int64) if self.groups is None else self.groups[indices]
        of_group = [np.flatnonzero(groups == group) for group in np.unique(groups)]  # places in `indices`
        full = [places[: len(places) // size * size].reshape(-1, size) for places in of_group]
        rest = rng.permutation(np.concatenate([places[len(places) // size * size :] for places in of_group]))
        rows = np.concatenate([*full, rest[: len(rest) // size * size].reshape(-1, size)])
        rows = rows[rng.permutation(len(rows))]
        return [
            [SampleKey(*pick) for pick in zip(of_row, [seed] * size, times, strict=True)]
            for of_row, times in zip(indices[rows].tolist(), repeats[rows].tolist(), strict=True)
        ]


def _repeats(indices: np.ndarray) -> np.ndarray:
    """(S,) how often the same index stands before each one."""
    order = np.argsort(indices, kind="stable")
    in_order = indices[order]
    repeats = np.empty_like(order)
    repeats[order] = np.arange(len(order)) - np.searchsorted(in_order, in_order)
    return repeats


class EvaluationBatches(Sampler[list[SampleKey]]):
    """Lists of picks: each image once over all ranks, images of one padded size together.

    sizes: (N, 2), what each image is padded to; where it is None, every image is a batch of its own. Ranks may differ
    by one batch. The largest images come first, so that memory that does not suffice shows at once.

    A rank without a batch would not join what the others compute together. It gets one image that another rank has
    too, as a repeat, which is not counted.
    """

    def __init__(
        self, length: int, sizes: np.ndarray | None, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if sizes is None:
            batches = [[index] for index in range(length)]
        else:
            groups: dict[tuple[int, int], list[int]] = {}
            for index, (height, width) in enumerate(sizes.tolist()):
                groups.setdefault((height, width), []).append(index)
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
