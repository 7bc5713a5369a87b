"""Reads the files of a run or an evaluation for pages: config, heads, tables and drawn images."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from densevit.config.data_schema import folder_name
from densevit.config.yaml_io import parse
from densevit.data.io.image_names import BEST, WORST
from densevit.errors import ConfigError, DataError
from densevit.evaluation import metrics_file, tables_file

EVALUATION = "evaluation.json"
"""The file in the folder of an evaluation, but not of a run."""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


@lru_cache(maxsize=8)  # parsing takes longer than the other parts of a page
def _sections_of(config: str) -> Any:
    """The parsed text of a config, cached: do not change it."""
    return parse(config, "config.yaml")


def has_no_heads(config: str) -> bool:
    """Whether the config has `heads: {}`, as for a method that trains only the backbone."""
    try:
        return bool(_sections_of(config)["heads"] == {})
    except (ConfigError, KeyError, TypeError):
        return False


def backbone_name(backbone: Mapping[str, Any]) -> str:
    """The model of a section `backbone` that names one, as of `timm`, else the backbone."""
    return str(backbone.get("model", backbone["name"]))


def _about_config(config: str) -> str:
    """One line with the heads, the backbone, the data set, and a method other than supervised."""
    try:
        sections = _sections_of(config)
        heads, method = sections["heads"], sections.get("method", {"name": "supervised"})["name"]
        trained = " + ".join(head["name"] for head in heads.values()) or method
        how = f", method: {method}" if heads and method != "supervised" else ""
        data = folder_name(sections["data"]["name"], sections["data"].get("root"))
        return f"{trained} on {backbone_name(sections['backbone'])}, data: {data}{how}"
    except (ConfigError, KeyError, TypeError, AttributeError):
        return ""


def about(run_dir: Path, config: str) -> str:
    """One line about a run or an evaluation."""
    line = _about_config(config)
    with suppress(OSError, ValueError, KeyError, TypeError):
        summary = json.loads((run_dir / EVALUATION).read_text(encoding="utf-8"))
        line = f"evaluation of {summary['model']} on {summary['images']:,} images; {line}"
    return line


def heads_of(run_dir: Path, config: str) -> list[str]:
    """The names of the heads, longest first, from the config and the metrics."""
    names: set[str] = set()
    with suppress(ConfigError, KeyError, TypeError):
        names |= set(_sections_of(config)["heads"])
    with suppress(DataError):
        names |= set(metrics_file.by_head(metrics_file.read(run_dir / "metrics.json")))
    return sorted(map(str, names - {""}), key=lambda name: (-len(name), name))


def tables_of(run_dir: Path, heads: Sequence[str]) -> dict[str, dict[str, list[list[str]]]]:
    """The tables NAME-HEAD.csv by head and name, without tables of images; the only cell of a damaged table is its
    error."""
    tables: dict[str, dict[str, list[list[str]]]] = {}
    for path in sorted(run_dir.glob("*-*.csv")):
        name, head = split_name(path.stem, heads)
        if name == tables_file.IMAGES:
            continue
        try:
            rows = tables_file.read(path)
        except DataError as error:
            rows = [[str(error)]]
        tables.setdefault(head, {})[name] = rows
    return tables


def split_name(stem: str, heads: Sequence[str]) -> tuple[str, str]:
    """Splits NAME-HEAD into name and head."""
    head = next((head for head in heads if stem.endswith(f"-{head}")), stem.partition("-")[2])
    return stem.removesuffix(f"-{head}"), head


def sorted_images(folder: Path, pattern: str = "*") -> list[Path]:
    """The drawn images of a folder, without the best and the worst images."""
    suffixes = (".jpg", ".jpeg", ".png")
    paths = sorted(path for path in folder.glob(f"**/{pattern}") if path.suffix.lower() in suffixes)
    return [path for path in paths if path.relative_to(folder).parts[0] not in (BEST, WORST)]


def extremes_of(run_dir: Path) -> list[Path]:
    """The drawings of the worst and the best images."""
    return [path for subfolder in (WORST, BEST) for path in sorted((run_dir / "predictions" / subfolder).glob("*.jpg"))]
