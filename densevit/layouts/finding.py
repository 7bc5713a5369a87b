"""Finds checkpoint layouts, which are plugins (entry-point group `densevit.checkpoints`), and reuses a backbone's."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

from densevit import registry
from densevit.errors import WeightsError, did_you_mean
from densevit.interfaces import CheckpointLayout, Line, Rearrangement, StateDict


def find(name: str) -> CheckpointLayout:
    """The layout or variant with a name; or a layout "module:LAYOUT", which needs no entry point.

    Raises WeightsError with the nearest name; PluginError if the layout cannot be loaded.
    """
    if ":" in name or name in registry.find("checkpoints"):
        return cast(CheckpointLayout, registry.load("checkpoints", name))
    layouts = {layout.name: layout for layout in every()}
    if name not in layouts:
        raise WeightsError(f"Unknown layout {name!r}.{did_you_mean(name, layouts)}")
    return layouts[name]


def every() -> Iterator[CheckpointLayout]:
    """Yields all layouts, each before its variants. Warns of layouts that cannot be loaded."""
    for layout in registry.load_all("checkpoints", "Checkpoints of this layout are not recognised."):
        yield from (layout, *layout.variants)


def backbone_lines(name: str, prefix: str) -> tuple[Line, ...]:
    """Maps the keys of a backbone inside the checkpoints of complete models, by the backbone's layout `name`.

    prefix: the prefix of the backbone's keys in these checkpoints, with the dot.
    """
    return tuple(Line(prefix + line.foreign_key, f"backbone.{line.key}", line.change) for line in find(name).lines)


def backbone_rearrangement(layout: CheckpointLayout, prefix: str) -> Rearrangement:
    """Applies the `Rearrangement` of a backbone's layout to the backbone's tensors in checkpoints of complete models.

    layout: the backbone's. prefix: the prefix of the backbone's keys in these checkpoints, with the dot; other keys do
    not change.
    """
    rearrange = layout.special.rearrange
    assert rearrange is not None

    def inside(change: Callable[[StateDict], StateDict], state: StateDict) -> StateDict:
        backbone = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
        rest = {key: x for key, x in state.items() if not key.startswith(prefix)}
        return {**{prefix + key: x for key, x in change(backbone).items()}, **rest}

    return Rearrangement(partial(inside, rearrange.forward), partial(inside, rearrange.inverse))


def by_name_only(tensors: StateDict, metadata: Mapping[str, Any]) -> bool:
    """`CheckpointLayout.fits` of a variant that only its name selects."""
    return False
