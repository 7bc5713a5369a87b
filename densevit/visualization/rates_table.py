"""What trains at which rate, as a table for the terminal."""

import re
from collections.abc import Collection, Iterator, Sequence
from fnmatch import translate

from rich.table import Table
from rich.text import Text

from densevit.model.parameter_groups import ParameterRate

PATTERNS_A_ROW = 3
_SEVERAL = ("heads", "necks", "log_variances")  # of which each is a part


def rates_table(rates: Sequence[ParameterRate]) -> Table:
    """A row for each learning rate in the backbone, at successive depths, and in each head; and for what is frozen.

    Named by patterns, which mean the same in `optim.lr_factors`, and in `freeze` without the name of the part.
    """
    decay = max(rate.weight_decay for rate in rates)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("parameters", overflow="fold")
    for column in ("depth", "learning rate", "number", f"decay {decay:g}"):
        table.add_column(column, justify="right", no_wrap=True)
    names = [rate.name for rate in rates]
    for row in rows(rates):
        patterns = exact_patterns({rate.name for rate in row}, names)
        label = ", ".join(patterns[:PATTERNS_A_ROW]) + (", ..." if len(patterns) > PATTERNS_A_ROW else "")
        depths = [rate.depth for rate in row if rate.depth is not None]
        table.add_row(
            Text(label, "cyan"),
            _span(depths),
            "frozen" if row[0].lr is None else f"{row[0].lr:.3g}",
            f"{sum(rate.parameter.numel() for rate in row):,}",
            "" if row[0].lr is None else f"{sum(r.parameter.numel() for r in row if r.weight_decay):,}",
        )
    return table


def rows(rates: Sequence[ParameterRate]) -> list[list[ParameterRate]]:
    """Parameters of one part (`backbone`, `heads.NAME`), one rate and successive depths, in this order."""
    parts: dict[str, dict[float | None, list[ParameterRate]]] = {}
    for rate in rates:
        parts.setdefault(_part(rate.name), {}).setdefault(rate.lr, []).append(rate)
    found: list[list[ParameterRate]] = []
    for by_rate in parts.values():
        runs = [run for same in by_rate.values() for run in _runs(same)]
        found += sorted(runs, key=lambda run: run[0].depth or 0)
    return found


def exact_patterns(names: Collection[str], among: Sequence[str]) -> list[str]:
    """Few patterns that match these names and no others of those they are among: of whole modules, and with `*` in the
    place of numbers, where that can be."""
    found: dict[str, None] = {}
    for pattern in _modules(names, among, ""):
        general = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", pattern)
        matches = re.compile(translate(general)).match
        found[general if all(name in names for name in among if matches(name)) else pattern] = None
    return list(found)


def _modules(names: Collection[str], among: Sequence[str], prefix: str) -> Iterator[str]:
    """The largest modules below a prefix whose names are all in, and single names."""
    children: dict[str, list[str]] = {}
    for name in among:
        children.setdefault(name[len(prefix) :].split(".")[0], []).append(name)
    for child, inside in children.items():
        whole = prefix + child
        if inside == [whole]:
            yield from [whole] if whole in names else []
        elif all(name in names for name in inside) and whole not in _SEVERAL:
            yield f"{whole}.*"
        elif any(name in names for name in inside):
            yield from _modules(names, inside, f"{whole}.")


def _part(name: str) -> str:
    first, second, *_ = name.split(".")
    return first if first == "backbone" else f"{first}.{second}"


def _runs(rates: Sequence[ParameterRate]) -> Iterator[list[ParameterRate]]:
    """Parameters of one rate, those of successive depths together."""
    run: list[ParameterRate] = []
    for rate in sorted(rates, key=lambda rate: rate.depth or 0):
        if run and (rate.depth or 0) > (run[-1].depth or 0) + 1:
            yield run
            run = []
        run.append(rate)
    yield run


def _span(depths: Sequence[int]) -> str:
    if not depths:
        return ""
    return str(min(depths)) if min(depths) == max(depths) else f"{min(depths)}-{max(depths)}"
