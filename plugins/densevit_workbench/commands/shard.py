"""Writes a data set as tar shards.

Few large files in place of many small ones; `data.name=shards data.root=OUT` reads them.
"""

import argparse
from pathlib import Path

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
        "--split", action="append", metavar="NAME", help="a split, may be repeated (default: train and data.val_split)"
    )


def run(args: argparse.Namespace) -> int:
    from densevit.atomic_io import atomic_folder, check_free
    from densevit.config import Config
    from densevit.data.dataset_builder import build_split
    from densevit_workbench.doctor.source import config_or_data
    from densevit_workbench.interchange.shard_writer import write_shards

    check_free(args.out)
    source = config_or_data(args.source, "shard", args.overrides)
    section = source.data if isinstance(source, Config) else source
    datasets = {
        split: build_split(section, split) for split in dict.fromkeys(args.split or ["train", section.val_split])
    }
    with atomic_folder(args.out) as folder:
        for split, dataset in datasets.items():
            written = write_shards(dataset, folder / split, args.size)
            for _ in args.output.track(written, f"Writing {split}", len(dataset)):
                pass
    images = ", ".join(f"{len(dataset)} {split}" for split, dataset in datasets.items())
    args.output.show(f"{args.out}: {images}\nUse it with: data.name=shards data.root={args.out}")
    args.output.result({"out": str(args.out), "images": {split: len(dataset) for split, dataset in datasets.items()}})
    return 0


def _size(text: str) -> int:
    from pydantic import ByteSize, TypeAdapter  # late: only this option needs it

    try:
        return max(1, TypeAdapter(ByteSize).validate_python(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, such as 500MB or 1GB") from None
