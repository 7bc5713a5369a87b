"""Writes predictions as a COCO json for label tools.

The objects predicted by `densevit predict`, as images, categories and annotations with scores. Label tools that import
COCO's format, such as CVAT, show them as labels to correct.
"""

import argparse
from pathlib import Path

from densevit.cli.evaluate import add_trust
from densevit.errors import ConfigError

EXAMPLES = """examples:
  densevit predict runs/detr_swin photos --out found
  densevit data prelabel runs/detr_swin found labels.json --threshold 0.3"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="the model of the predictions, for its classes")
    parser.add_argument("predictions", metavar="DIR", type=Path, help="the folder that densevit predict wrote")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new json file")
    parser.add_argument("--threshold", metavar="SCORE", type=float, default=0.5, help="the lowest score (%(default)s)")
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.threshold <= 1:
        raise ConfigError(f"--threshold is {args.threshold:g}; a score from 0 to 1 is expected.")
    from densevit.inference.loading import load
    from densevit_workbench.interchange.prelabels import write_prelabels

    count = write_prelabels(args.predictions, load(args.model, "cpu", args.trust).classes, args.out, args.threshold)
    args.output.show(f"{args.out}: {count:,} objects with scores from {args.threshold:g}")
    args.output.result({"out": str(args.out), "objects": count})
    return 0
