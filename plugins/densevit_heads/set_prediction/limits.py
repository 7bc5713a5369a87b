"""Limits of options that the heads of the DETR family share. All raise ValueError, naming the option."""

from collections.abc import Mapping, Sequence

from densevit.interfaces import Class

MAX_LAYERS = 1000  # a typo must not allocate layers until memory runs out


def check_counts(counts: Mapping[str, int], minimum: int = 1, maximum: int | None = None) -> None:
    """counts: by option."""
    for option, count in counts.items():
        if count < minimum:
            raise ValueError(f"{option} is {count}; it must be at least {minimum}.")
        if maximum is not None and count > maximum:
            raise ValueError(f"{option} is {count}; it must be at most {maximum}.")


def check_weights(weights: Mapping[str, float]) -> None:
    """weights: by option."""
    for option, weight in weights.items():
        if weight < 0:
            raise ValueError(f"{option} is {weight:g}; a weight must be at least 0.")


def check_classes(classes: Sequence[Class]) -> None:
    if not classes:
        raise ValueError("The detection data has no classes; at least one is needed.")
