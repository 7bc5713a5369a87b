"""Counts the parameters of a backbone.

Prints the number of trained parameters.
"""

import argparse

EXAMPLES = """examples:
  densevit parameters swin
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backbone", metavar="NAME", help="a backbone plugin")


def run(args: argparse.Namespace) -> int:
    import densevit

    count = sum(p.numel() for p in densevit.create_backbone(args.backbone).parameters())
    args.output.show(f"{args.backbone}: {count:,} parameters")
    args.output.result({"backbone": args.backbone, "parameters": count})
    return 0
