"""metrics.json: `{"detection/AP": 0.41, ...}`, with null for undefined metrics (nan in Python)."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from densevit.atomic_io import replaced_file
from densevit.errors import DataError, one_line


def write(metrics: Mapping[str, float], path: Path) -> None:
    """Writes metrics, unrounded, in their order."""
    known = {name: None if math.isnan(value) else float(value) for name, value in metrics.items()}
    with replaced_file(path) as temporary:
        temporary.write_text(json.dumps(known, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, float]:
    """Reads a file written by `write`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): math.nan if value is None else float(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: expected metrics as a JSON object of numbers; found: {one_line(error)}") from error


def by_head(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """`{"detection/AP": 0.41}` as `{"detection": {"AP": 0.41}}`; metrics without a head are under ""."""
    heads: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        head, slash, metric = name.partition("/")
        heads.setdefault(head if slash else "", {})[metric if slash else name] = value
    return heads
