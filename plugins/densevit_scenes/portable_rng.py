"""Random numbers that are identical on every machine and with every numpy version."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")

_BLOCK = 256


class PortableRng:
    """A stream of random numbers, seeded by integers.

    numpy guarantees the raw bits of PCG64 for all versions, but not the distributions of `Generator`, so this class
    computes numbers from the bits.
    """

    def __init__(self, *name: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(name))
        self._block: list[float] = []

    def random(self) -> float:
        """Uniform in 0 ... 1, 1 excluded, with 53 bits."""
        if not self._block:
            self._block = ((self._bits.random_raw(_BLOCK) >> np.uint64(11)) * 2.0**-53).tolist()
        return self._block.pop()

    def random_array(self, count: int) -> np.ndarray:
        """(count,) float64, uniform in 0 ... 1."""
        return (self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """Uniform in low ... high."""
        return low + (high - low) * self.random()

    def integer(self, count: int) -> int:
        """Returns one of 0 ... count-1, equally likely."""
        return int(self.random() * count)

    def choice(self, items: Sequence[Item]) -> Item:
        """Returns one of the items, equally likely."""
        return items[int(self.random() * len(items))]

    def bernoulli(self, probability: float) -> bool:
        """Returns True with this probability."""
        return self.random() < probability
