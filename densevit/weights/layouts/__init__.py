"""The layouts of other projects' checkpoints, one module a project. Each defines `LAYOUTS`."""

import importlib
import pkgutil
from functools import cache

from densevit.errors import WeightsError, did_you_mean
from densevit.weights.key_mapping import Layout, State, has_marks


def names() -> list[str]:
    """The names of all layouts."""
    return list(_layouts())


def find(name: str) -> Layout:
    """The layout with a name. Raises WeightsError with the nearest known name."""
    if name not in _layouts():
        raise WeightsError(f"Unknown layout {name!r}.{did_you_mean(name, names())}")
    return _layouts()[name]


def recognise(tensors: State, source: str = "checkpoint") -> Layout:
    """The layout whose marks are all among a checkpoint's keys; among several, the one with the most marks.

    Raises WeightsError, listing some of the keys, if there is none, or two have equally many marks.
    """
    matching = [layout for layout in _layouts().values() if has_marks(tensors, layout)]
    most = max((len(layout.marks) for layout in matching), default=0)
    best = [layout for layout in matching if len(layout.marks) == most]
    if len(best) == 1:
        return best[0]
    keys = list(tensors)
    shown = ", ".join([*keys[:3], *(["..."] if len(keys) > 6 else []), *keys[3:][-3:]])
    found = f"{source} has {len(keys)} tensors ({shown}), which"
    if best:
        equal = " and ".join(layout.name for layout in best)
        raise WeightsError(f"{found} match {equal}. Name the layout with `densevit convert {source} OUT --as NAME`.")
    raise WeightsError(
        f"{found} match no known layout. If it is one of these, name it with "
        f"`densevit convert {source} OUT --as NAME`: {', '.join(names()) or 'none'}."
    )


@cache
def _layouts() -> dict[str, Layout]:
    found: dict[str, Layout] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        for layout in getattr(importlib.import_module(f"{__name__}.{module.name}"), "LAYOUTS", ()):
            if layout.name in found:
                raise ValueError(f"Duplicate layout name {layout.name!r}, in {module.name}.")
            found[layout.name] = layout
    return found
