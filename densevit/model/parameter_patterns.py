"""Selection of parameters by name patterns, as in configs: `stages.0.*`."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from densevit.errors import ConfigError


def matching(pattern: str, names: Iterable[str], where: str) -> list[str]:
    """The names that match a pattern; `*` matches any text, including dots.

    where: the pattern's config key. Raises ConfigError with the closest names if none matches.
    """
    names = list(names)
    matches = [name for name in names if fnmatchcase(name, pattern)]
    if not matches:
        near = difflib.get_close_matches(pattern, _patterns(names), n=3)
        hint = f"Closest: {', '.join(near)}." if near else f"Available: {', '.join(_top_level(names))}."
        raise ConfigError(f"{where}: no parameter matches {pattern!r}. {hint}")
    return matches


def _patterns(names: list[str]) -> list[str]:
    """Patterns to suggest: each parameter, each module's parameters, and all modules of a name (`*.norm.*`)."""
    candidates = dict.fromkeys(names)
    for name in names:
        modules = name.split(".")[:-1]
        candidates |= dict.fromkeys(f"{'.'.join(modules[: i + 1])}.*" for i in range(len(modules)))
        candidates |= dict.fromkeys(f"*.{module}.*" for module in modules if not module.isdecimal())
    return list(candidates)


def _top_level(names: list[str]) -> list[str]:
    return list(
        dict.fromkeys(name if first == name else f"{first}.*" for name in names for first in [name.split(".")[0]])
    )
