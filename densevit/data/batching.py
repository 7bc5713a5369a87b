"""Samples into batches, and which samples: shuffled and resumable to train, of one padded size to evaluate."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from densevit.interfaces import Batch, Sample

Pick = tuple[int, int]  # a sample's index, and the seed of its random transform

_ASPECT_EDGES = (0.8, 1.25)  # height / width: lying pictures, squarish ones, upright ones


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
    """(N,) a group a picture by its shape: lying, squarish or upright. sizes: (N, 2) heights and widths."""
    return np.digitize(sizes[:, 0] / sizes[:, 1], _ASPECT_EDGES)


class TrainBatches(Sampler[list[Pick]]):
    """Lists of (index, seed) for training, in an order that follows from seed and epoch, dealt out to the ranks.

    Every rank gets the same number of batches. What does not fill a batch for each is left out, other samples each
    epoch; a data set smaller than that is repeated to fill one. groups: (N,) numbers; a batch is of one group, as far
    as it goes. `set_epoch` shuffles anew. A state says how many batches of its epoch were handed on (`position`), and
    the iteration that follows `load_state_dict` starts there.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: np.ndarray | None = None,
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.groups = np.zeros(length, np.int64) if groups is None else groups
        self.epoch = self.position = self._start = 0

    def __len__(self) -> int:
        """Batches an epoch, of this rank."""
        return max(1, self.length // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[Pick]]:
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

    def _epoch_batches(self) -> list[list[Pick]]:
        """All ranks' batches of this epoch, shuffled: the full ones of each group, and those of what is left of all."""
        rng = np.random.default_rng([self.seed, self.epoch])
        seed = int(rng.integers(2**31))
        size, needed = self.batch_size, self.batch_size * self.world_size * len(self)
        order = rng.permutation(self.length)
        if needed > self.length:
            order = np.resize(order, needed)
        of_group = [order[self.groups[order] == group] for group in np.unique(self.groups)]
        full = [members[: len(members) // size * size].reshape(-1, size) for members in of_group]
        rest = rng.permutation(np.concatenate([members[len(members) // size * size :] for members in of_group]))
        rows = np.concatenate([*full, rest[: len(rest) // size * size].reshape(-1, size)])
        return [[(int(index), seed) for index in row] for row in rows[rng.permutation(len(rows))]]


class EvaluationBatches(Sampler[list[Pick]]):
    """Lists of (index, 0): each image once over all ranks, images of one padded size together.

    sizes: (N, 2), what each image is padded to; where it is None, every image is a batch of its own. Ranks may differ
    by one batch. The largest images come first, so that memory that does not suffice shows at once.
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
        self._batches = [[(index, 0) for index in batch] for batch in batches[rank::world_size]]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Pick]]:
        return iter(self._batches)
