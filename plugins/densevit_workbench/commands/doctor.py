"""Examines a data set before training; writes a page.

Files, annotations, classes, duplicates, and the effect of augmentation. The HTML page shows all numbers, findings and
augmented samples. Exit code 1 if there are errors. With --environment, prints versions and devices instead, for bug
reports.
"""

import argparse
from pathlib import Path

from densevit.errors import ConfigError

IMAGES = 500

EXAMPLES = """examples:
  densevit doctor ~/my_folder                                    a folder in a layout that data sets recognise
  densevit doctor data/coco data.root=~/coco                     a data section
  densevit doctor detr_swin data=coco data.root=~/coco           a config: also its cost
  densevit doctor ~/my_folder --images all --quiet --json        for scripts
  densevit doctor --environment                                  this installation, for bug reports"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="DATA_OR_CONFIG",
        nargs="?",
        help="a folder, a data section, a config, a shipped name of either, or a run",
    )
    parser.add_argument("overrides", metavar="data.key=value", nargs="*", help="overrides; of a config, any key")
    parser.add_argument(
        "--images", metavar="N", type=_count, default=IMAGES, help="images of each split to open, or all (%(default)s)"
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="the page, a new file (default: ./doctor.html, or the next free name)"
    )
    parser.add_argument(
        "--environment", action="store_true", help="print versions and devices; takes no data or config"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command. Returns 1 if there are errors."""
    if args.environment:
        return _environment(args)
    if args.source is None:
        raise ConfigError("doctor needs a folder, a data section or a config to examine, or --environment.")
    from densevit.atomic_io import atomic_file, check_free, check_writable, write_next_free
    from densevit_workbench.doctor import diagnosis_tables
    from densevit_workbench.doctor.examination import doctor

    page: Path | None = args.out
    if page is None:
        check_writable(Path.cwd(), Path("doctor.html"), "Fix: name a page with --out FILE.")
    else:
        check_free(page)
    diagnosis = doctor(args.source, args.overrides, args.images, track=args.output.track)
    if page is None:
        page = write_next_free(Path("doctor.html"), diagnosis.write_page)
    else:
        with atomic_file(page) as partial:
            diagnosis.write_page(partial)
    args.output.show(*diagnosis_tables.tables(diagnosis))
    args.output.show(f"\n{diagnosis.summary}", f"page: {page}")
    args.output.result(diagnosis_tables.as_json(diagnosis) | {"page": str(page)})
    return 1 if diagnosis.errors else 0


def _environment(args: argparse.Namespace) -> int:
    from densevit import terminal
    from densevit_workbench.doctor import environment

    arguments = [args.source, *args.overrides, args.images != IMAGES and "--images", args.out and "--out"]
    unused = [argument for argument in arguments if argument]
    if unused:
        raise ConfigError(
            f"--environment examines the installation, not data or a config. Fix: leave out "
            f"{', '.join(map(repr, unused))}, or examine the data in a second command."
        )
    rows, problems = environment.examine()
    args.output.show(terminal.table([*map(list, rows.items())], right=(), no_wrap=(0,)))
    for problem in problems:
        args.output.problem(f"problem: {problem}")
    args.output.result({"environment": rows, "problems": problems})
    return 1 if problems else 0


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of images of at least 1, or all")
    return int(text)
