"""The parts of DETR-like heads, for heads of your own: each name is imported when it is first used.

Box queries: projections, encoder, queries, decoder layers, box refinement, denoising, proposals, criterion and
predictions. Mask queries: base classes of heads, criterion and predictions. `deformable_transformer` has the encoder
and decoder layers of multi-scale deformable attention.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

_MODULE_OF = {
    node.names[0].name: str(node.module)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'densevit.set_prediction' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
