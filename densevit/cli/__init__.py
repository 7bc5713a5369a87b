"""The command line: `densevit NAME`, `python -m densevit NAME` and `python tools/NAME.py` call `main`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`; only the requested one is imported.
"""

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence

import densevit
from densevit.errors import DensevitError, did_you_mean, printable

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("densevit.cli.train", "train a model; leaves a run folder"),
    "evaluate": ("densevit.cli.evaluate", "evaluate a run on its validation data or on other data"),
    "predict": ("densevit.cli.predict", "run a model on images; writes visualizations and predictions"),
    "convert": (
        "densevit.cli.convert",
        "convert another project's weights to a run folder, or a run to its weights",
    ),
    "plugins": ("densevit.cli.plugins", "list the installed backbones, necks, heads, data sets and evaluators"),
    "check": ("densevit.cli.check", "check a backbone or a head of your own"),
    "config": ("densevit.cli.config", "print the resolved config"),
    "scenes": ("densevit.cli.scenes", "write the built-in data set to disk"),
    "replay": ("densevit.cli.replay", "repeat a training step whose loss was not finite"),
    "shard": ("densevit.cli.shard", "write a data set as tar shards"),
    "new": ("densevit.cli.new", "write a template of a plugin distribution"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 2 for an error that the user can fix, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return 0 if given else 2
    if given[0] == "--version":
        print(f"densevit {densevit.__version__}")
        return 0
    name, *rest = given
    if name not in COMMANDS:
        print(f"densevit: there is no command {name!r}.{did_you_mean(name, COMMANDS)}", file=sys.stderr)
        return 2
    warnings.formatwarning = _one_line
    try:
        return _run(name, rest)
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


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning without its location in the code."""
    return f"warning: {printable(str(message))}\n"


def _os_error(error: OSError) -> str:
    """The file and the reason of an OSError: "runs/a: Permission denied."."""
    name = "" if error.filename is None else str(error.filename)
    name = name if len(name) <= 200 else f"{name[:100]} ... ({len(name):,} characters)"
    return f"{name}{': ' if name else ''}{error.strerror or error}."


def _run(name: str, rest: list[str]) -> int:
    path, purpose = COMMANDS[name]
    module = importlib.import_module(path)
    parser = argparse.ArgumentParser(f"densevit {name}", description=module.__doc__ or purpose)
    module.add_arguments(parser)
    try:
        arguments = parser.parse_intermixed_args(rest)
    except SystemExit as stop:  # argparse has printed the reason
        return stop.code if isinstance(stop.code, int) else 2
    return int(module.run(arguments))


def _overview() -> str:
    lines = [f"  {name:10}{purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        ["usage: densevit COMMAND ...", "", "commands:", *lines, "", "densevit COMMAND --help describes a command."]
    )
