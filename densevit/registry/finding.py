"""Finds plugins in the entry points of installed distributions, without importing them."""

import functools
import importlib.metadata
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from densevit.errors import did_you_mean, one_line
from densevit.registry.groups import PLUGIN_GROUPS, Plugin, check_group


@dataclass(frozen=True)
class InstalledPlugins:
    """The entry points of all installed distributions."""

    plugins: dict[tuple[str, str], Plugin] = field(default_factory=dict)  # by group and name
    shadowed: list[tuple[Plugin, Plugin]] = field(default_factory=list)  # (hidden plugin, used plugin of the same name)
    broken: list[str] = field(default_factory=list)  # a sentence per invalid entry point


def find(group: str) -> dict[str, Plugin]:
    """All plugins of a group by name, without importing them. Warns of a name in two distributions."""
    check_group(group)
    for hidden, winner in scan().shadowed:
        if hidden.group == group:
            warnings.warn(f"{hidden.origin} offers {hidden.noun}, but {winner.origin} has that name.", stacklevel=2)
    return {**_named_plugins(tuple(sys.path), group)}


def scan() -> InstalledPlugins:
    """The plugins of all distributions, cached by sys.path."""
    return _scan(tuple(sys.path))


@functools.cache
def _named_plugins(path: tuple[str, ...], group: str) -> dict[str, Plugin]:
    return {name: plugin for (where, name), plugin in sorted(_scan(path).plugins.items()) if where == group}


@functools.cache
def _scan(path: tuple[str, ...]) -> InstalledPlugins:
    result = InstalledPlugins()
    by_key: dict[str, _Distribution] = {}
    for distribution in importlib.metadata.distributions():
        try:
            candidate = _read(distribution)
        except Exception as error:
            result.broken.append(
                f"A distribution cannot be read: {one_line(error)} "
                f"({getattr(distribution, '_path', 'at an unknown path')})."
            )
            continue
        first = by_key.get(candidate.key) if candidate else None
        if candidate and (first is None or (first.is_egg_info and not candidate.is_egg_info)):
            by_key[candidate.key] = candidate  # Python imports the first on the path, but an egg-info may be outdated
    for key in sorted(by_key, key=lambda key: key != "densevit"):  # stable sort: built-in plugins first
        _add(by_key[key], result)
    return result


class _Distribution(NamedTuple):
    """A distribution with plugins. key: its normalised name. entry_points: the text of its entry_points.txt."""

    key: str
    origin: str
    is_egg_info: bool
    entry_points: str


def _read(distribution: importlib.metadata.Distribution) -> _Distribution | None:
    """Reads a distribution; None without plugins. A broken distribution may raise anything."""
    entry_points = distribution.read_text("entry_points.txt") or ""
    if "densevit" not in entry_points.lower():
        return None
    metadata = distribution.metadata
    name, version = metadata["Name"] or "a nameless distribution", metadata["Version"] or "of no version"
    is_egg_info = distribution.read_text("METADATA") is None
    return _Distribution(re.sub(r"[-_.]+", "-", name).lower(), f"{name} {version}", is_egg_info, entry_points)


def _add(distribution: _Distribution, scan: InstalledPlugins) -> None:
    """Adds the plugins of a distribution, except for names that are already used."""
    origin = distribution.origin
    for group, name, value in _entries(distribution.entry_points):
        if value is None:
            scan.broken.append(f"{origin} has a malformed entry point, {name!r} under [densevit.{group}].")
            continue
        plugin = Plugin(group, name, value, origin)
        winner = scan.plugins.setdefault((group, name), plugin)
        if winner is not plugin:
            scan.shadowed.append((plugin, winner))
    for problem in _unknown_groups(distribution.entry_points):
        scan.broken.append(f"{origin} has entry points under {problem}")


def _entries(text: str) -> Iterator[tuple[str, str, str | None]]:
    """Yields (group, name, value) of each densevit entry point in an entry_points.txt; value None: malformed.

    `importlib.metadata` would reject the complete file, and in some versions all files.
    """
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[] ").removeprefix("densevit.") if line.startswith("[densevit.") else ""
        elif group in PLUGIN_GROUPS and line and not line.startswith("#"):
            name, _, value = (part.strip() for part in line.partition("="))
            value = re.sub(r"\s*\[.*\]$", "", value)  # optional extras
            form = r"[\w.]+" if group == "commands" else r"[\w.]+\s*:\s*[\w.]+"
            good = name and re.fullmatch(form, value)
            yield group, (name if good else line), (re.sub(r"\s", "", value) if good else None)


def _unknown_groups(text: str) -> Iterator[str]:
    """Sections of an entry_points.txt that resemble plugin groups but are not."""
    for name in re.findall(r"^\s*\[\s*(densevit[._-][^]]*?)\s*\]", text, re.IGNORECASE | re.MULTILINE):
        if name not in {f"densevit.{group}" for group in PLUGIN_GROUPS}:
            group = re.split(r"[._-]", name, maxsplit=1)[1].strip().lower()
            hint = did_you_mean(group, PLUGIN_GROUPS).replace("Did you mean '", "Did you mean 'densevit.")
            yield f"[{name}], which is not a plugin group.{hint}"
