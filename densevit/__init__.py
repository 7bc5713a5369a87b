"""densevit: detection, segmentation and depth with interchangeable backbones and heads, which are plugins.

Importing densevit is cheap: each public name is imported when it is first used.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_MODULE_OF = {name.name: node.module for node in _STUB.body if isinstance(node, ast.ImportFrom) for name in node.names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'densevit' has no attribute {name!r}")
    module = str(_MODULE_OF[name])
    if module.startswith("densevit."):
        value = getattr(importlib.import_module(module), name)
    else:  # a plugin's
        value = importlib.import_module("densevit.registry").public_name(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
