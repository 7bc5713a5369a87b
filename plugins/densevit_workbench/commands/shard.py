"""Writes a data set as tar shards.

Few large files in place of many small ones; `data.name=shards data.root=OUT` reads them.
"""

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.errors import ConfigError

if TYPE_CHECKING:
    from densevit.config import DataSection

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

EXAMPLES = """examples:
  densevit shard data/coco shards data.root=~/coco --size 500MB
  densevit shard detr_swin shards --split train
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a file of a data section, a config, or a shipped config's name")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    parser.add_argument("overrides", metavar="data.key=value", nargs="*", help="overrides, such as data.root=~/coco")
    parser.add_argument("--size", type=_size, default=10**9, help="size of a shard, such as 500MB (default: 1GB)")
    parser.add_argument(
        "--split", action="append", metavar="NAME", help="a split, may be repeated (default: train and data.split)"
    )


def run(args: argparse.Namespace) -> int:
    from densevit.atomic_io import check_writable
    from densevit.data.splits import build_split
    from densevit_workbench.interchange.shard_writer import write_shards

    section = _data_section(args.source, args.overrides)
    out = args.out
    partial = out.with_name(f"{out.name}.partial")
    for folder in (out, partial):
        if folder.exists():
            raise _exists(folder)
    check_writable(out.absolute().parent, out)
    splits = list(dict.fromkeys(args.split or ["train", section.split]))
    datasets = {split: build_split(section, split) for split in splits}
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.mkdir()
    except FileExistsError:
        raise _exists(partial) from None
    for split, dataset in datasets.items():
        written = write_shards(dataset, partial, split, args.size)
        for _ in args.output.track(written, f"Writing {split}", len(dataset)):
            pass
    if out.exists():
        raise _exists(out)
    os.replace(partial, out)
    counts = {split: len(dataset) for split, dataset in datasets.items()}
    args.output.show(f"{out}: {', '.join(f'{count} {split}' for split, count in counts.items())}")
    args.output.show(f"Use it with: data.name=shards data.root={out}")
    args.output.result({"out": str(out), "images": counts})
    return 0


def _exists(folder: Path) -> ConfigError:
    left = ""
    if folder.suffix == ".partial":
        left = " Another `densevit shard` is writing it, or an interrupted one has left it."
    return ConfigError(f"{folder} exists.{left} Fix: remove it, or name another folder.")


def _data_section(source: str, overrides: list[str]) -> "DataSection":
    """The data section of a config, or a file that is a data section."""
    from densevit.config import Config
    from densevit_workbench.doctor.source import config_or_data

    found = config_or_data(source, "shard", overrides)
    return found.data if isinstance(found, Config) else found


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})([kmgt]?)b?", text.lower())
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, such as 500MB or 1GB")
    return int(found[1]) * _UNITS[found[2]]
