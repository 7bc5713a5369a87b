"""metrics.json: `{"detection/AP": 0.41, ...}`, with null for undefined metrics (nan in Python)."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densevit.atomic_io import replaced_file
from densevit.errors import DataError, one_line


def write(metrics: Mapping[str, float], path: Path) -> None:
    """Writes metrics as JSON, unrounded, in the order of `metrics`; NaN as null."""
    values = {name: None if math.isnan(value) else float(value) for name, value in metrics.items()}
    with replaced_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, float]:
    """Reads a file written by `write`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): math.nan if value is None else float(value) for name, value in values.items()}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: expected metrics as a JSON object of numbers; found: {one_line(error)}") from error


def by_head(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """`{"detection/AP": 0.41}` as `{"detection": {"AP": 0.41}}`; metrics without a head are under ""."""
    heads: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        head, slash, metric = name.partition("/")
        heads.setdefault(head if slash else "", {})[metric if slash else name] = value
    return heads


def overall(values: Mapping[str, float]) -> dict[str, float]:
    """A head's metrics without metrics of single classes."""
    return {name: value for name, value in values.items() if "/" not in name}


def by_class(values: Mapping[str, float]) -> list[dict[str, dict[str, float]]]:
    """Groups a head's metrics `METRIC/CLASS` as {metric: {class: value}}; metrics of the same classes share a group.

    {"mIoU": 0.5, "IoU/cat": 0.5, "Acc/cat": 0.6, "AP/dog": 0.7} is [{"IoU": {"cat": 0.5}, "Acc": {"cat": 0.6}},
    {"AP": {"dog": 0.7}}].
    """
    metrics = by_head({name: value for name, value in values.items() if "/" in name})
    groups: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    for metric, classes in metrics.items():
        groups.setdefault(tuple(classes), {})[metric] = classes
    return list(groups.values())


def number(value: float, digits: int = 4) -> str:
    """A metric with so many decimals, or a dash for NaN."""
    return "–" if value != value else f"{value:.{digits}f}"


def finite(value: Any) -> Any:
    """Replaces NaN and infinities by None, also inside dicts and lists, for JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
