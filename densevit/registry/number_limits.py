"""Numbers that no option can be: not finite, or beyond the limits of 64-bit integers and float32."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

LARGEST_INT = 2**63 - 1
LARGEST_FLOAT = 3.4028234e38  # of float32


def wrong_numbers(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields key and message of each invalid number in a nested value: "should be a finite number, not nan."

    Invalid are nan, infinity, integers beyond 64 bits, and floats beyond float32.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from wrong_numbers(item, (*key, str(name)))
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield from wrong_numbers(item, (*key, str(index)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, f"should be a finite number, not {value}."
    elif isinstance(value, float) and abs(value) > LARGEST_FLOAT:
        yield key, f"should be a number of at most {LARGEST_FLOAT:g}, the largest of float32, not {value}."
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        yield key, f"should be a whole number of at most {LARGEST_INT}, not {_digits(value)}."


def _digits(value: int) -> str:
    """An integer as text; if large, its number of digits: Python refuses to print thousands of digits."""
    return str(value) if abs(value) < 10**40 else f"one of about {round(value.bit_length() * math.log10(2))} digits"
