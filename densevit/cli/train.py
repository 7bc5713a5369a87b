"""Trains a model and writes a run folder.

The folder contains config, metrics, checkpoints, weights, visualizations and a report.
"""

import argparse
from pathlib import Path

from densevit.errors import ConfigError

EXAMPLES = """examples:
  densevit train detr_swin
  densevit train start/detector backbone=efficientnet_lite0 data=~/my_folder
  densevit train detr_swin optim.lr=5e-4 trainer.max_images=50000 --run-dir runs/mine
  densevit train --resume runs/mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="CONFIG", nargs="?", help="a config file, or a shipped config's name; none with --resume"
    )
    parser.add_argument(
        "overrides",
        metavar="section.key=value",
        nargs="*",
        help="overrides; section=FILE reads a section from a file",
    )
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help="a new or empty folder (default: runs/CONFIG)")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        type=Path,
        help="resume this run with its config, or one of its checkpoints in --run-dir; trainer.max_steps=N extends "
        "a finished run",
    )


def run(args: argparse.Namespace) -> int:
    overrides = args.overrides
    if args.resume is not None:
        overrides = [text for text in (args.config, *args.overrides) if text is not None]
        if wrong := [override for override in overrides if "=" not in override]:
            raise ConfigError(f"--resume {args.resume} uses that run's config; remove {wrong[0]!r}.")
    elif args.config is None or "=" in args.config:
        raise ConfigError("train needs a config: a file, or a shipped config's name. Try: densevit train detr_swin")
    from densevit.training.run.inputs import read_inputs

    inputs = read_inputs(args.config if args.resume is None else None, overrides, args.resume, args.run_dir)
    from densevit.training.run.fit import fit_on

    run, stopped_by = fit_on(inputs)
    args.output.result({"run": str(run.path), "stopped_by": stopped_by, "metrics": run.metrics})
    return 128 + stopped_by if stopped_by else 0  # as in a shell: 130 after Ctrl-C, 143 after SIGTERM
