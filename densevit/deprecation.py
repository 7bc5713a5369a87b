"""Deprecated names, which work until they leave: config keys, plugins and their options, names of `densevit`."""

from densevit.errors import warn_once

DEPRECATED: dict[str, tuple[str, str]] = {}
"""The new name of each deprecated one, and the version in which the old one leaves, two minor versions later. Today no
name is deprecated.

| deprecated | of what |
|---|---|
| `trainer.NAME`, `heads.*.NAME` | a config key; the new name is a key of the same section |
| `heads:NAME` | a plugin, by its entry-point group |
| `heads:detr.NAME` | an option of a plugin |
| `densevit.NAME` | a public name |
"""


def current_name(where: str, name: str, source: str = "") -> str:
    """The new name of a deprecated one, with a warning; any other name unchanged.

    where: what precedes the name in `DEPRECATED`, such as "trainer.". source: the file or override, for the warning.
    """
    new, version = DEPRECATED.get(f"{where}{name}", (name, ""))
    if version:
        warn_once(
            f"{source and f'{source}: '}{where}{name} is deprecated and leaves in densevit {version}. Fix: write "
            f"{where}{new}."
        )
    return new
