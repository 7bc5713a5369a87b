"""Warnings that are recorded."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """The messages of all warnings in this context, which are complete after it."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(warning.message) for warning in caught]
