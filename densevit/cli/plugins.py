"""Lists the installed plugins and commands.

Prints group, name, distribution, and first line of the docstring, without importing them.
"""

import argparse

from densevit import registry

EXAMPLES = """examples:
  densevit plugins
  densevit plugins backbones
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", nargs="?", choices=registry.GROUPS, help="list only this group")


def run(args: argparse.Namespace) -> int:
    groups = [args.group] if args.group else registry.GROUPS
    found = registry.scan()
    for group in groups:
        plugins = sorted((one for one in found.plugins.values() if one.group == group), key=lambda one: one.name)
        rows = [(group, one.name, one.origin, registry.first_line(one)) for one in plugins]
        widths = [max(map(len, groups)), *(max((len(row[column]) for row in rows), default=0) for column in (1, 2))]
        for *cells, summary in rows:
            columns = [*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), summary]
            args.output.show("  ".join(columns).rstrip())
    hidden = [f"Hidden: {one.noun} of {one.origin}, because {w.origin} has that name." for one, w in found.shadowed]
    args.output.show(*hidden, *found.broken)
    listed = [plugin for plugin in found.plugins.values() if plugin.group in groups]
    entries = [{"group": p.group, "name": p.name, "value": p.value, "origin": p.origin} for p in listed]
    args.output.result({"plugins": entries, "problems": [*hidden, *found.broken]})
    return 0
