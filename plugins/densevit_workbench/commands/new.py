"""Writes a template of a plugin distribution.

A backbone, a head, a training method or a task (data set, target type, head and evaluator) that installs, passes its
test and trains.
"""

import argparse
import shlex
from pathlib import Path

from densevit.errors import ConfigError

EXAMPLES = """examples:
  densevit new backbone my_net
  densevit new head my_head --task detr --out ~/projects
  densevit new head my_head --task segmentation
  densevit new method my_method
  densevit new task my_task
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("backbone", "head", "method", "task"), help="kind of plugin")
    parser.add_argument("name", metavar="NAME", help="name of the plugin, its package and its folder: my_net")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="parent of the new folder NAME (default: here)"
    )
    parser.add_argument(
        "--task",
        choices=("detr", "segmentation"),
        help="template of a head: detr, a detector (default), or segmentation",
    )


def run(args: argparse.Namespace) -> int:
    from densevit_workbench import scaffold

    if args.task is not None and args.kind != "head":
        raise ConfigError(f"--task {args.task}: only the template of a head has it. Fix: leave out --task.")
    name = scaffold.check_name(scaffold.KINDS[args.kind].points, args.name)
    files = scaffold.files(args.kind, name, args.task)
    folder = args.out / name
    scaffold.write(folder, files)
    checked = "head" if args.kind == "task" else args.kind
    steps = [f"cd {shlex.quote(str(folder))}", "pip install -e .", f"densevit check {checked} {name}"]
    steps += ["python -m pip install pytest", "python -m pytest", f"densevit train configs/{name}.yaml"]
    args.output.show(f"{folder}: {', '.join(files)}\n", "Next:", *(f"  {step}" for step in steps))
    args.output.result({"out": str(folder), "files": list(files), "next": steps})
    return 0
