"""Writes a template of a backbone or head distribution, which installs, passes its test and trains."""

import argparse
import shlex
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("backbone", "head"), help="kind of plugin")
    parser.add_argument("name", metavar="NAME", help="name of the plugin, its package and its folder: my_net")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="parent of the new folder NAME (default: here)"
    )


def run(args: argparse.Namespace) -> int:
    from densevit import scaffold

    name = scaffold.check_name(scaffold.KINDS[args.kind].group, args.name)
    files = scaffold.files(args.kind, name)
    folder = args.out.expanduser() / name
    scaffold.write(folder, files)
    print(f"{folder}: {', '.join(files)}\n")
    print("Next:")
    print(f"  cd {shlex.quote(str(folder))}")
    print("  pip install -e .")
    print(f"  densevit check {args.kind} {name}")
    print("  pytest")
    print(f"  densevit train configs/{name}.yaml")
    return 0
