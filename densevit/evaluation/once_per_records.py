"""Results that several functions of the same records share."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

Result = TypeVar("Result")


def once_per_records(method: Callable[[Any, Sequence[Any]], Result]) -> Callable[[Any, Sequence[Any]], Result]:
    """A method of an evaluator that keeps its last result and returns it for the same object of records."""

    @wraps(method)
    def kept(self: Any, records: Sequence[Any]) -> Result:
        last: tuple[Sequence[Any], Result] | None = self.kept.get(method)
        if last is None or last[0] is not records:
            last = self.kept[method] = records, method(self, records)
        return last[1]

    return kept
