"""Immutable mappings of configs."""

from collections.abc import Mapping
from typing import Any, NoReturn


class FrozenMapping(dict[str, Any]):
    """A dict that cannot be changed. Equal to a dict of the same items; `dict(mapping)` is a copy that can be."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a config is immutable. Fix: make a changed copy, as by config.with_overrides.")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


def frozen(value: Any) -> Any:
    """The value with immutable mappings at all levels, inside lists and tuples too."""
    if isinstance(value, Mapping):
        return FrozenMapping({key: frozen(item) for key, item in value.items()})
    return type(value)(map(frozen, value)) if type(value) in (list, tuple) else value
