"""Limits of options that the heads of the DETR family share. Checks raise ValueError, naming the option."""

from collections.abc import Mapping, Sequence

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
