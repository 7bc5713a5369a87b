"""Output of commands on stdout: tables and text for people, or one JSON object for scripts (`--json`)."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from densevit import progress
from densevit.errors import printable
from densevit.evaluation.metrics_file import finite

T = TypeVar("T")


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the flags of every command."""
    group = parser.add_argument_group("output")
    group.add_argument("--quiet", action="store_true", help="only errors and warnings, and the result with --json")
    group.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")


class Output:
    """The output of a command, passed to its `run` as `args.output`."""

    def __init__(self, args: Namespace) -> None:
        self.json: bool = args.json
        self.quiet: bool = args.quiet

    @contextmanager
    def console(self) -> Iterator[None]:
        """A context in which rich's global console, which runs print to, follows the flags: silent, or on stderr."""
        if not (self.quiet or self.json):
            yield
            return
        from rich import reconfigure

        reconfigure(quiet=self.quiet, stderr=self.json)
        try:
            yield
        finally:
            reconfigure()

    def show(self, *renderables: Any) -> None:
        """Prints texts or rich tables for people, unless `--quiet` or `--json` is set."""
        if self.quiet or self.json:
            return
        for renderable in renderables:
            if isinstance(renderable, str):
                print(printable(renderable))
            else:
                from densevit import terminal

                terminal.show(renderable, terminal.text_console())

    def result(self, values: Mapping[str, Any]) -> None:
        """Prints the command's result as JSON if `--json` is set; numbers that are not finite become null."""
        if self.json:
            print(json.dumps(finite(values), ensure_ascii=False, indent=2))

    def problem(self, text: str) -> None:
        """Prints a problem that does not stop the command to stderr."""
        print(printable(text), file=sys.stderr)

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Yields the items and shows progress on stderr, unless `--quiet` is set."""
        return progress.track(items, description, total, self.quiet)
