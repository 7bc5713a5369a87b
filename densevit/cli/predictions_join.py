"""Joins the parts of a prediction by several processes."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from densevit.cli.evaluate import add_trust

EXAMPLES = """examples:
  densevit predict runs/mine photos --out found --part 1/2
  densevit predict runs/mine photos --out found --part 2/2
  densevit predictions join found"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("predictions", metavar="DIR", type=Path, help="the folder of densevit predict")
    add_trust(parser)


def run(args: Namespace) -> int:
    from densevit.atomic_io import check_writable

    check_writable(args.predictions, fix="Fix: make it writable.")  # before slow imports
    from densevit.cli.joined_predictions import join

    join(args.predictions, args.trust)
    args.output.show(f"{args.predictions}: the parts are joined")
    args.output.result({"out": str(args.predictions)})
    return 0
