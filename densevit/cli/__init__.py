"""The command line: `densevit NAME`, `python -m densevit NAME` and `python tools/NAME.py` call `main`.

A command is a module with `add_arguments(parser)` and `run(args) -> int` in the entry-point group `densevit.commands`;
only the requested command is imported. The first line of its docstring is its summary; its help ends with `EXAMPLES`.
All commands have the flags of `densevit.cli.command_output`, and write through `args.output`.
"""

import argparse
import errno
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import densevit
from densevit import registry
from densevit.cli.streams import unfailing_output
from densevit.errors import Argument, DensevitError, did_you_mean, printable
from densevit.paths import user_path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit code: 0, 2 for an error that the user can fix, 130 after Ctrl-C.

    If the reader of the output ends first, as in `densevit train ... | head`, the command continues without output.
    """
    with unfailing_output():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(registry.find("commands")))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"densevit {densevit.__version__}")
        return 0
    usual, warnings.formatwarning = (
        warnings.formatwarning,
        lambda message, *_, **__: f"warning: {printable(str(message))}\n",
    )
    try:
        commands = registry.find("commands")
        words = 2 if " ".join(arguments[:2]) in commands else 1
        name, rest = " ".join(arguments[:words]), arguments[words:]
        if name not in commands:
            below = {other: plugin for other, plugin in commands.items() if other.startswith(f"{name} ")}
            if below and arguments[1:2] in (["-h"], ["--help"]):
                print(_overview(below))
                return 0
            hint = f" There are {' and '.join(below)}." if below else did_you_mean(name, commands)
            if "train" not in commands:  # entry points are read at installation
                hint = " The commands of densevit are not installed. Fix: `pip install -e .` in its clone."
            print(f"densevit: there is no command {' '.join(arguments[: 2 if below else 1])!r}.{hint}", file=sys.stderr)
            return 2
        code = _run(name, rest)
        sys.stdout.flush()
        return code
    except DensevitError as error:
        print(printable(str(error)), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno is None:  # not raised by the operating system
            raise
        print(printable(_os_error(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = usual


def _os_error(error: OSError) -> str:
    """The file and the reason of an OSError: "runs/a: Permission denied."."""
    name = "" if error.filename is None else str(error.filename)
    name = name if len(name) <= 200 else f"{name[:100]} ... ({len(name):,} characters)"
    return f"{name}{': ' if name else ''}{error.strerror or error}."


def _run(name: str, rest: list[str]) -> int:
    from densevit.allocator import keep_freed_memory
    from densevit.cli import command_output
    from densevit.openmp import shorten_waits_beside_other_work

    if "torch" not in sys.modules:  # it has no effect on one that is there; a caller's environment stays
        shorten_waits_beside_other_work()
    keep_freed_memory()
    module, parser = command(name)
    try:
        arguments = parser.parse_intermixed_args([Argument(word) if "=" in word else word for word in rest])
    except SystemExit as stop:  # argparse has printed the reason
        return stop.code if isinstance(stop.code, int) else 2
    arguments.output = command_output.Output(arguments)
    arguments.command = shlex.join(["densevit", *name.split(), *rest])
    try:
        with arguments.output.console():
            return int(module.run(arguments))
    except OSError as error:
        if error.errno == errno.ENOSPC:  # a failed write names no file
            error.filename = error.filename or getattr(arguments, "out", None)
        raise


def _path(text: str) -> Path:
    """An argument of type Path, with ~ expanded."""
    try:
        return user_path(text)
    except DensevitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def command(name: str) -> tuple[ModuleType, argparse.ArgumentParser]:
    """The module and the parser of a command."""
    from densevit.cli import command_output

    module = registry.load_command(name)
    parser = argparse.ArgumentParser(
        f"densevit {name}",
        description=module.__doc__,
        epilog=getattr(module, "EXAMPLES", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.register("type", Path, _path)
    module.add_arguments(parser)
    command_output.add_arguments(parser)
    return module, parser


def _overview(commands: Mapping[str, registry.Plugin]) -> str:
    width = max(map(len, commands)) + 2
    lines = [f"  {name:{width}}{registry.first_line(plugin)}" for name, plugin in commands.items()]
    last = "densevit COMMAND --help describes a command; all have --quiet and --json."
    return "\n".join(["usage: densevit COMMAND ...", "", "commands:", *lines, "", last])
