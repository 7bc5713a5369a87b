"""Names of classes in files that may be from another person: model files, checkpoints, downloads.

`module:Class` in a config is imported. In such a file it is a `NameInFile`, which `densevit.registry` imports only if
its module is trusted: a file can select installed plugins, but cannot run other code.
"""

import re
from collections.abc import Collection
from typing import Any

MODULE_CLASS = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")


class NameInFile(str):
    """A `module:Class` that a file names. file: its path, for messages. trusted: whether the user trusts its module."""

    __slots__ = ("file", "trusted")

    file: str
    trusted: bool

    def __new__(cls, name: str, file: str, trusted: bool) -> "NameInFile":
        self = super().__new__(cls, name)
        self.file, self.trusted = file, trusted
        return self

    def __getnewargs__(self) -> tuple[str, str, bool]:  # type: ignore[override]
        return str(self), self.file, self.trusted


def names_in_file(values: Any, file: str, trust: Collection[str] = (), config_modules: Collection[str] = ()) -> Any:
    """The values of a file, with each `module:Class` as a `NameInFile`.

    trust: modules, with their submodules, that the user allows to import. config_modules: modules in the user's own
    config; their names are not converted.
    """
    if isinstance(values, dict):
        return {key: names_in_file(value, file, trust, config_modules) for key, value in values.items()}
    if isinstance(values, list):
        return [names_in_file(value, file, trust, config_modules) for value in values]
    module = module_of(values)
    if not module or module in config_modules:
        return values
    return NameInFile(values, file, any(f"{module}.".startswith(f"{trusted}.") for trusted in trust))


def with_names_of(original: Any, values: Any) -> Any:
    """Restores the `NameInFile`s of the original in validated values, because pydantic converts them to str."""
    if isinstance(original, NameInFile):
        return original if values == original else values
    if isinstance(original, dict) and isinstance(values, dict):
        return {key: with_names_of(original.get(key), value) for key, value in values.items()}
    if isinstance(original, list) and type(values) in (list, tuple) and len(original) == len(values):
        return type(values)(map(with_names_of, original, values))
    return values


def modules_in(values: Any) -> set[str]:
    """The modules of all `module:Class` in nested values."""
    if isinstance(values, dict | list):
        return set().union(*map(modules_in, values.values() if isinstance(values, dict) else values))
    return {module} if (module := module_of(values)) else set()


def module_of(value: Any) -> str:
    """The module of a `module:Class`; "" for other values."""
    match = MODULE_CLASS.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else ""
