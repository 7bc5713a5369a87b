"""Parameters by patterns of their names, as configs write them: `stages.0.*`."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from densevit.errors import ConfigError


def matching(pattern: str, names: Iterable[str], where: str) -> list[str]:
    """The names that a pattern matches; `*` is any text, dots included.

    where: the key that holds the pattern. Raises ConfigError, with the nearest names, where it matches none.
    """
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, _patterns(names), n=3)
        hint = f"The nearest: {', '.join(near)}." if near else f"There are {', '.join(_parts(names))}."
        raise ConfigError(f"{where}: no parameter is called {pattern!r}. {hint}")
    return found


def _patterns(names: list[str]) -> list[str]:
    """What a pattern may have meant: a name, all of a module, or all modules of a name wherever they are."""
    found = dict.fromkeys(names)
    for name in names:
        modules = name.split(".")[:-1]
        found |= dict.fromkeys(f"{'.'.join(modules[: i + 1])}.*" for i in range(len(modules)))
        found |= dict.fromkeys(f"*.{module}.*" for module in modules if not module.isdecimal())
    return list(found)


def _parts(names: list[str]) -> list[str]:
    return list(
        dict.fromkeys(name if first == name else f"{first}.*" for name in names for first in [name.split(".")[0]])
    )
