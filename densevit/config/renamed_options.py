"""Options of earlier versions of a head, as they are now."""

import warnings
from collections.abc import Mapping
from typing import TypeVar

from densevit import registry
from densevit.config import yaml_io
from densevit.config.values import PluginSection
from densevit.errors import PluginError
from densevit.registry.options import GIVEN, parameters_of

HeadSection = TypeVar("HeadSection", bound=PluginSection)


def renamed_heads(heads: Mapping[str, HeadSection]) -> dict[str, HeadSection]:
    """The sections of heads, with the options that `Head.renamed_options` gives and a warning for each that it changes.

    Imports the plugins of heads; leaves one that cannot be imported as it is.
    """
    return {name: _renamed(name, head) for name, head in heads.items()}


def _renamed(name: str, head: HeadSection) -> HeadSection:
    try:
        kind = registry.load("heads", head.name)
        known, takes_all = parameters_of(kind, GIVEN["heads"], head.name)
    except PluginError:  # is reported where it is used
        return head
    if takes_all or head.options.keys() <= known.keys():
        return head
    renamed = kind.renamed_options(head.options)
    if renamed is None or (*renamed,) == (head.name, head.options):
        return head
    now = yaml_io.write_line({"name": renamed[0], **renamed[1]})
    warnings.warn(f"heads.{name}: options of {head.name!r} of an earlier version are read as {now}.", stacklevel=2)
    given = {key: value for key, value in head.model_dump().items() if key not in head.options}
    return type(head).model_validate({**given, **renamed[1], "name": renamed[0]})
