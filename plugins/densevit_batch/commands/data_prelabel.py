"""Writes predictions as a COCO json, or in another format, for label tools.

Converts the objects of `densevit predict` to images, categories and annotations with scores. Label tools that import
COCO's format, such as CVAT, show them as labels to correct.
"""

import argparse
from pathlib import Path

from densevit import registry
from densevit.cli.evaluate import add_trust
from densevit.errors import ConfigError

EXAMPLES = """examples:
  densevit predict runs/detr_swin photos --out found
  densevit data prelabel runs/detr_swin found labels.json --threshold 0.3
  densevit data prelabel runs/detr_swin found tasks.json --format label-studio"""


THRESHOLD = "the lowest score (default: the score with the largest F1 in the model's validation; 0.5 without one)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="the model of the predictions")
    parser.add_argument("predictions", metavar="DIR", type=Path, help="the folder that densevit predict wrote")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new json file, or a folder in Datumaro's layout")
    parser.add_argument("--threshold", metavar="SCORE", type=float, help=THRESHOLD)
    formats = ("coco", *registry.find("prelabels"))
    parser.add_argument("--format", choices=formats, default="coco", help="the format of OUT (default: %(default)s)")
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ConfigError(f"--threshold is {args.threshold:g}; a score from 0 to 1 is expected.")
    from densevit.atomic_io import check_writable

    check_writable(args.out.absolute().parent, args.out)  # before slow imports
    from densevit.inference.model_loading import load
    from densevit_batch.folder_prediction import threshold_origin
    from densevit_batch.prelabels import prelabel

    model = load(args.model, "cpu", args.trust)
    written = prelabel(args.predictions, model, args.out, args.threshold, args.model, args.format)
    origin = threshold_origin(args.threshold, model, written.head)
    args.output.show(f"{args.out}: {written.objects:,} objects of score {written.threshold:.4g} or more ({origin})")
    args.output.result({"out": str(args.out), "objects": written.objects, "threshold": written.threshold})
    return 0
