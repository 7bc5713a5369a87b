"""Lists the installed plugins and commands.

Prints group, name, distribution, and the docstring's first line, without importing the plugins.
"""

import argparse

from densevit import registry

EXAMPLES = """examples:
  densevit plugins
  densevit plugins backbones
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", nargs="?", choices=registry.PLUGIN_GROUPS, help="list only this group")


def run(args: argparse.Namespace) -> int:
    groups = [args.group] if args.group else registry.PLUGIN_GROUPS
    scan = registry.scan()
    for group in groups:
        plugins = sorted((p for p in scan.plugins.values() if p.group == group), key=lambda plugin: plugin.name)
        rows = [(group, plugin.name, plugin.origin, registry.first_line(plugin)) for plugin in plugins]
        widths = [max(map(len, groups)), *(max((len(row[column]) for row in rows), default=0) for column in (1, 2))]
        for *cells, summary in rows:
            columns = [*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), summary]
            args.output.show("  ".join(columns).rstrip())
    hidden = [f"Hidden: {p.noun} of {p.origin}, because {used.origin} has that name." for p, used in scan.shadowed]
    args.output.show(*hidden, *scan.broken)
    listed = [plugin for plugin in scan.plugins.values() if plugin.group in groups]
    entries = [{"group": p.group, "name": p.name, "value": p.value, "origin": p.origin} for p in listed]
    args.output.result({"plugins": entries, "problems": [*hidden, *scan.broken]})
    return 0
