"""Prints the resolved config.

Merges bases and section files, applies overrides, fills in defaults and validates values.
"""

import argparse

from densevit import config

EXAMPLES = """examples:
  densevit config detr_swin
  densevit config runs/mine
  densevit config detr_swin data=coco data.root=~/coco
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a config file, a run folder, or a shipped config's name")
    parser.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="overrides; section=FILE reads a section from a file"
    )


def run(args: argparse.Namespace) -> int:
    resolved = config.load(args.config, args.overrides)
    config.check_plugins(resolved)
    args.output.show(config.dump(resolved).rstrip("\n"))
    args.output.result(resolved.model_dump(mode="json"))
    return 0
