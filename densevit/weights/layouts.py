"""Finds and recognises checkpoint layouts, which are plugins (entry-point group `densevit.checkpoints`)."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from densevit import registry
from densevit.errors import PluginError, WeightsError, did_you_mean
from densevit.interfaces import CheckpointLayout, Line, Rearrangement, StateDict
from densevit.weights.key_mapping import canonical


def names() -> list[str]:
    """The names of all installed layouts."""
    return list(registry.find("checkpoints"))


def find(name: str) -> CheckpointLayout:
    """The layout, or the variant of one, with a name; or by "module:LAYOUT", which needs no entry point.

    Raises WeightsError with the nearest known name; PluginError if it cannot be loaded.
    """
    if ":" in name or name in names():
        layout: CheckpointLayout = registry.load("checkpoints", name)
        if ":" not in name and layout.name != name:
            raise PluginError(
                f"The checkpoint layout {name!r} is called {layout.name!r} in its module; expected the entry point's "
                "name."
            )
        return layout
    known = {layout.name: layout for layout in every()}
    if name not in known:
        raise WeightsError(f"Unknown layout {name!r}.{did_you_mean(name, known)}")
    return known[name]


def every() -> Iterator[CheckpointLayout]:
    """Yields all layouts that can be loaded, each before its variants. Warns of those that cannot."""
    for name in names():
        try:
            layout = find(name)
        except PluginError as error:
            warnings.warn(f"{error} Checkpoints of this layout are not recognised.", stacklevel=3)
        else:
            yield from (layout, *layout.variants)


def backbone_lines(name: str, prefix: str) -> tuple[Line, ...]:
    """The lines of a backbone's layout for complete models.

    prefix: the prefix of the backbone's keys there, with the dot.
    """
    return tuple(Line(prefix + line.theirs, f"backbone.{line.ours}", line.change) for line in find(name).lines)


def backbone_rearrangement(layout: CheckpointLayout, prefix: str) -> Rearrangement:
    """The rearrangement of a backbone's layout for complete models. prefix: the argument of `backbone_lines`."""
    own = layout.special.rearrange
    assert own is not None

    def inside(change: Callable[[StateDict], StateDict], state: StateDict) -> StateDict:
        backbone = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
        others = {key: x for key, x in state.items() if not key.startswith(prefix)}
        return {**{prefix + key: x for key, x in change(backbone).items()}, **others}

    return Rearrangement(partial(inside, own.forward), partial(inside, own.inverse))


def recognise(
    tensors: StateDict, source: str = "checkpoint", metadata: Mapping[str, Any] = MappingProxyType({})
) -> CheckpointLayout:
    """The layout whose marks are all among a checkpoint's keys; among several, the one with the most marks.

    metadata: the checkpoint's metadata, see `CheckpointLayout`. Layouts that cannot be loaded are skipped with a
    warning. Raises WeightsError if there is none, or two have equally many marks.
    """
    matching = [layout for layout in every() if _is_of(tensors, layout, metadata)]
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
        f"{found} match no known layout. `densevit plugins` lists the projects whose checkpoints can be read; name one "
        f"with `densevit convert {source} OUT --as NAME`."
    )


def of_variant(
    layout: CheckpointLayout, tensors: StateDict, metadata: Mapping[str, Any] = MappingProxyType({})
) -> CheckpointLayout:
    """The one of a layout and its variants that a checkpoint is of; the layout itself if none has all marks."""
    matching = [one for one in (layout, *layout.variants) if _is_of(tensors, one, metadata)]
    return max(matching, key=lambda one: len(one.marks), default=layout)


def same_tensors(layout: CheckpointLayout) -> list[str]:
    """The names of other layouts with the same marks, whose checkpoints differ in what tensors do not tell."""
    return [one.name for one in every() if one.marks == layout.marks and one.name != layout.name]


def by_name_only(tensors: StateDict, metadata: Mapping[str, Any]) -> bool:
    """`CheckpointLayout.fits` of a variant whose checkpoints differ in nothing from another's."""
    return False


def _is_of(tensors: StateDict, layout: CheckpointLayout, metadata: Mapping[str, Any]) -> bool:
    own = canonical(tensors, layout) if layout.marks else None
    return own is not None and (layout.fits is None or layout.fits(own, metadata))
