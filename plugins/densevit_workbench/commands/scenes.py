"""Writes the built-in data set to disk.

Images, COCO json, semantic PNG and 16-bit depth PNG (millimetres).
"""

import argparse
import re
from pathlib import Path

_LARGEST_SIDE = 2**13

EXAMPLES = """examples:
  densevit scenes --out scenes --count 200 --size 256
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--count", type=_positive, metavar="N", help="images per split (default: 4000 train, 500 val)")
    parser.add_argument("--size", type=_size, default=128, metavar="S", help="side in pixels, or HxW (default: 128)")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="random seed of the scenes (default: 0)")
    parser.add_argument("--split", choices=("train", "val"), help="only this split (default: both)")
    parser.add_argument("--jpeg", action="store_true", help="write JPEG: smaller, but lossy")


def run(args: argparse.Namespace) -> int:
    from densevit import registry
    from densevit.atomic_io import locked_folder
    from densevit_workbench.interchange.dataset_writer import empty_folder, write_split

    lengths = {} if args.count is None else {"train_length": args.count, "val_length": args.count}
    options = {"image_size": args.size, "seed": args.seed, **lengths}
    datasets = {
        split: registry.create("datasets", "scenes", split, options=options, where="scenes")
        for split in ((args.split,) if args.split else ("train", "val"))
    }
    folder = empty_folder(args.out)
    with locked_folder(folder):
        empty_folder(folder)  # another process may have written it meanwhile
        for split, dataset in datasets.items():
            written = write_split(dataset, folder, split, ".jpg" if args.jpeg else ".png")
            for _ in args.output.track(written, f"Writing {split}", len(dataset)):
                pass
    counts = {split: len(dataset) for split, dataset in datasets.items()}
    args.output.show(f"{folder}: {', '.join(f'{count} {split}' for split, count in counts.items())}")
    args.output.result({"out": str(folder), "images": counts})
    return 0


def _positive(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 999999999")
    return int(text)


def _size(text: str) -> "int | tuple[int, int]":
    sides = [_positive(side) for side in text.lower().split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a side, such as 128, nor height x width, such as 96x160")
    if max(sides) > _LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {_LARGEST_SIDE} pixels per side")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
