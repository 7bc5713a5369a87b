"""Limits of options that the heads of the DETR family share, and of the number of objects.

Checks of options raise ValueError, naming the option.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from densevit.interfaces import Class

# A typo must not allocate layers or queries until memory runs out.
MAX_LAYERS = 1000
MAX_QUERIES = 100_000


def check_counts(counts: Mapping[str, int], minimum: int = 1, maximum: int | None = None) -> None:
    """Raises ValueError for a count below the minimum or above the maximum. counts: the values by option."""
    for option, count in counts.items():
        if count < minimum:
            raise ValueError(f"{option} is {count}; it must be at least {minimum}.")
        if maximum is not None and count > maximum:
            raise ValueError(f"{option} is {count}; it must be at most {maximum}.")


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises ValueError for a negative weight. weights: the values by option."""
    for option, weight in weights.items():
        if weight < 0:
            raise ValueError(f"{option} is {weight:g}; a weight must be at least 0.")


def check_classes(classes: Sequence[Class], task: str = "detection") -> None:
    if not classes:
        raise ValueError(f"The {task} data has no classes; at least one is needed.")


class QueryLimit:
    """Warns once if an image has more objects than there are queries. objects: the noun for messages."""

    def __init__(self, num_queries: int, objects: str, note: str = "") -> None:
        self.num_queries, self._objects, self._note, self._warned = num_queries, objects, note, False

    def check_data(self, counts: np.ndarray | None) -> None:
        """counts: (N,), objects per training image, if known."""
        if counts is not None and len(counts):
            over = int((counts > self.num_queries).sum())
            images = f"{over:,} of {len(counts):,} training images have more objects than queries; one of them"
            self._warn(int(counts.max()), images)

    def check_batch(self, counts: Sequence[int], names: Sequence[int | str]) -> None:
        """counts: objects per image. names: image ids."""
        most = max(counts, default=0)
        if most > self.num_queries:
            self._warn(most, f"image {names[counts.index(most)]!r}")

    def _warn(self, most: int, image: str) -> None:
        if self._warned or most <= self.num_queries:
            return
        self._warned = True
        warnings.warn(
            f"{image} has {most} {self._objects}, but num_queries is {self.num_queries}: {most - self.num_queries} of "
            f"them are not learned{self._note}. Fix: set num_queries to at least {most}.",
            stacklevel=4,
        )
