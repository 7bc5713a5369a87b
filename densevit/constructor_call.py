"""The constructor calls of plugins, so that configs and model files can name an instance as `module:Class`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any


class Unwritten(str):
    """The name of an argument that is no plain value, such as a function or a module, which files cannot hold."""


class Recorded:
    """Base class of plugins: records the class and the arguments of the constructor's call as `constructor_call`, a
    pair of the plugin, a class or a name, and its options by name, as in a config."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        instance = super().__new__(cls)
        # Copies and unpickled instances are made without arguments, and then get the original's call. FSDP2 changes
        # an instance's class, and constructors change lists.
        with suppress(TypeError, ValueError):  # the constructor raises for the arguments
            vars(instance)["constructor_call"] = cls, plain(named_arguments(cls, *args, **kwargs))
        return instance


def named_arguments(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name. Raises TypeError if the function does not take them."""
    call = signature(function).bind_partial(*args, **kwargs)
    return dict(zip(call.signature.parameters, call.args, strict=False)) | call.kwargs


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """The parameters of a function, or of a class's constructor: those of `Recorded.__new__` do not count."""
    return inspect.signature(
        functools.partial(function.__init__, None) if isinstance(function, type) else function  # type: ignore[misc]
    )


def plain(value: Any) -> Any:
    """A copy of a value as a config has it: numbers, texts and None, in lists and mappings; others are `Unwritten`."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    fields = vars(value) if is_dataclass(value) and not isinstance(value, type) else value
    if isinstance(fields, Mapping):
        return {str(key): plain(item) for key, item in fields.items()}
    return (
        value
        if isinstance(value, bool | int | float | str | Path | None)
        else Unwritten(getattr(value, "__qualname__", type(value).__qualname__))
    )
