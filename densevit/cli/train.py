"""Trains a model and writes a run folder: config, metrics, checkpoints, weights, visualizations and a report."""

import argparse
from pathlib import Path

from densevit import config
from densevit.errors import ConfigError


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
        help="resume this run or checkpoint with the run's own config; trainer.max_steps=N extends a finished one",
    )


def run(args: argparse.Namespace) -> int:
    if args.resume is not None:
        overrides = [given for given in (args.config, *args.overrides) if given is not None]
        wrong = [given for given in overrides if "=" not in given]
        if wrong or args.run_dir is not None:
            given = wrong[0] if wrong else f"--run-dir {args.run_dir}"
            raise ConfigError(f"--resume {args.resume} uses that folder and its config; remove {given!r}.")
        from densevit.training.run import fit

        return _exit_code(fit(None, overrides, resume=args.resume).stopped_by)
    if args.config is None or "=" in args.config:
        raise ConfigError("train needs a config: a file, or a shipped config's name. Try: densevit train detr_swin")
    resolved = config.load(args.config, args.overrides)
    from densevit.training.run import fit  # it checks the plugins' options before it reads data

    return _exit_code(fit(resolved, run_dir=args.run_dir, name=Path(args.config).stem).stopped_by)


def _exit_code(stopped_by: int) -> int:
    """The exit code of a shell: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + stopped_by if stopped_by else 0
