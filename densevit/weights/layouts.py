"""Finds and recognises checkpoint layouts, which are plugins (entry-point group `densevit.checkpoints`)."""

import warnings

from densevit import registry
from densevit.errors import PluginError, WeightsError, did_you_mean
from densevit.interfaces import CheckpointLayout, Line, StateDict
from densevit.weights.key_mapping import has_marks


def names() -> list[str]:
    """The names of all installed layouts."""
    return list(registry.find("checkpoints"))


def find(name: str) -> CheckpointLayout:
    """The layout with a name, or by "module:LAYOUT", which needs no entry point.

    Raises WeightsError with the nearest known name; PluginError if it cannot be loaded.
    """
    if ":" not in name and name not in names():
        raise WeightsError(f"Unknown layout {name!r}.{did_you_mean(name, names())}")
    layout: CheckpointLayout = registry.load("checkpoints", name)
    if ":" not in name and layout.name != name:
        raise PluginError(
            f"The checkpoint layout {name!r} is called {layout.name!r} in its module; expected the entry point's name."
        )
    return layout


def backbone_lines(name: str, prefix: str) -> tuple[Line, ...]:
    """The lines of a backbone's layout for complete models. prefix: of the backbone's keys there, with the dot."""
    return tuple(Line(prefix + line.theirs, f"backbone.{line.ours}", line.change) for line in find(name).lines)


def recognise(tensors: StateDict, source: str = "checkpoint") -> CheckpointLayout:
    """The layout whose marks are all among a checkpoint's keys; among several, the one with the most marks.

    Layouts that cannot be loaded are skipped with a warning. Raises WeightsError, listing some of the keys, if there is
    none, or two have equally many marks.
    """
    matching = [layout for layout in _loadable() if has_marks(tensors, layout)]
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


def _loadable() -> list[CheckpointLayout]:
    """All layouts except broken ones, with a warning for each of those."""
    found = []
    for name in names():
        try:
            found.append(find(name))
        except PluginError as error:
            warnings.warn(f"{error} Checkpoints of this layout are not recognised.", stacklevel=3)
    return found
