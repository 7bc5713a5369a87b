"""Checks a custom backbone, head or training method.

Shapes, gradients, precisions, state, options and more. Exit code 1 if a check fails.
"""

import functools
import importlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from densevit import config, registry
from densevit.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from densevit_workbench.testing.check_results import CheckResult

KINDS = ("backbone", "head", "method")

EXAMPLES = """examples:
  densevit check backbone my_net width=96
  densevit check head my_package:MyHead --skip bfloat16
  densevit check method my_method noise=0.2
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("kind", choices=KINDS, metavar="|".join(KINDS), help="kind of plugin")
    parser.add_argument("name", metavar="NAME", help="a plugin's name, module:Class, or timm:NAME")
    parser.add_argument("options", metavar="key=value", nargs="*", help="the constructor's options, as in a config")
    parser.add_argument("--skip", metavar="CHECK", action="append", default=[], help="leave out this check; repeatable")


def run(args: Namespace) -> int:
    """Runs the command. Returns 1 if a check fails."""
    group, where, name, options = f"{args.kind}s", args.kind, args.name, read_options(args.options)
    if args.kind == "backbone":
        section = config.section(where, {"name": name, **options}, "command line")
        name, options = section.name, section.unloaded_options
    options = registry.check_options(group, name, options, where)
    plugin: Callable[..., Any] = registry.load(group, name)
    factory = functools.partial(plugin, **options)

    from densevit_workbench.testing.check_results import messages

    module = importlib.import_module(f"densevit_workbench.testing.{args.kind}_checks")
    try:
        checks = getattr(module, f"{args.kind}_checks")(factory, skip=args.skip)
    except ValueError as error:
        raise ConfigError(f"--skip: {error}") from None
    results = []
    for result in checks:
        results.append(result)
        if not args.output.quiet:
            verdict = "passed" if result.passed else "FAILED"
            print(f"{result.name}: {verdict}, {result.seconds:.1f} s", file=sys.stderr, flush=True)
    args.output.show(_table(f"{args.kind} {args.name}", results))
    passed = sum(result.passed for result in results)
    for message in messages(results):
        args.output.problem(message)
    args.output.show(f"{args.name}: {passed} of {len(results)} checks passed")
    args.output.result(
        {"checks": [{"name": check.name, "passed": check.passed, "note": check.note} for check in results]}
    )
    return 0 if passed == len(results) else 1


def read_options(arguments: Sequence[str]) -> dict[str, Any]:
    """A dict of `key=value` arguments, with values in YAML."""
    from densevit.config.yaml_io import parse

    options: dict[str, Any] = {}
    for option in arguments:
        name, equals, text = option.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise ConfigError(f"command line: {option!r} is not an option: write key=value, and key=null for none.")
        options[name.strip()] = parse(text, f"command line: {option}")
    return options


def _table(title: str, results: "Sequence[CheckResult]") -> "Table":
    from rich.text import Text

    from densevit.terminal import table

    verdicts = {True: Text("passed", "green"), False: Text("FAILED", "bold red")}
    rows: list[list[str | Text]] = [
        [check.name, verdicts[check.passed], f"{check.seconds:.2f}", check.note] for check in results
    ]
    return table(rows, ["check", "", "seconds", "note"], title, right=(2,), no_wrap=(0,))
