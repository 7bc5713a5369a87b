"""densevit: detection, segmentation and depth with interchangeable backbones and heads, which are plugins.

Importing densevit is cheap: each public name is imported when it is first used.
"""

import ast
import importlib
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_MODULE_OF = {name.name: node.module for node in _STUB.body if isinstance(node, ast.ImportFrom) for name in node.names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        name = importlib.import_module("densevit.deprecation").current_name("densevit.", name)
    if name not in _MODULE_OF:
        if not name.startswith("_") and find_spec(f"densevit.{name}"):
            return importlib.import_module(f"densevit.{name}")
        raise AttributeError(f"module 'densevit' has no attribute {name!r}")
    module = str(_MODULE_OF[name])
    state = random.getstate()
    try:
        if module.startswith("densevit."):
            return globals().setdefault(name, getattr(importlib.import_module(module), name))
        return globals().setdefault(name, importlib.import_module("densevit.registry").public_name(name))  # a plugin's
    finally:
        random.setstate(state)  # rich draws random numbers when it is imported


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
