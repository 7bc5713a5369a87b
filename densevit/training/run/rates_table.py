"""The learning rates of a model's parts: a table, and a line for the terminal."""

import re
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase, translate
from os.path import commonpath

from rich.table import Table
from rich.text import Text

from densevit.model.parameter_groups import ParameterRate
from densevit.terminal import table

PATTERNS_PER_ROW = 3
_CONTAINERS = ("heads", "necks", "log_variances")  # modules whose children are parts


def rates_table(rates: Sequence[ParameterRate]) -> Table:
    """One row per part (backbone, each head), learning rate and range of depths; frozen parameters have separate rows.

    Rows are labelled by patterns that can be used in `optim.lr_factors`, and without the part's name in `freeze`.
    """
    decay = max(rate.weight_decay for rate in rates)
    lines: list[list[str | Text]] = []
    names = [rate.name for rate in rates]
    for row in rows(rates):
        patterns = exact_patterns({rate.name for rate in row}, names)
        label = ", ".join(patterns[:PATTERNS_PER_ROW]) + (", ..." if len(patterns) > PATTERNS_PER_ROW else "")
        depths = [rate.depth for rate in row if rate.depth is not None]
        lines.append(
            [
                Text(label, "cyan"),
                _span(depths),
                "frozen" if row[0].lr is None else f"{row[0].lr:.3g}",
                f"{sum(rate.parameter.numel() for rate in row):,}",
                "" if row[0].lr is None else f"{sum(r.parameter.numel() for r in row if r.weight_decay):,}",
            ]
        )
    header = ["parameters", "depth", "learning rate", "number", f"decay {decay:g}"]
    return table(lines, header, right=range(1, 5), no_wrap=range(1, 5))


def rates_line(rates: Sequence[ParameterRate]) -> str:
    """The rates of each part: "learning rates: backbone 3.7e-05 to 0.0002, heads.boxes 0.001; 5,000 weights frozen"."""
    parts: dict[str, list[float]] = {}
    for rate in rates:
        if rate.lr is not None:
            parts.setdefault(_part(rate.name), []).append(rate.lr)
    spans = ((part, f"{min(found):.3g}", f"{max(found):.3g}") for part, found in parts.items())
    trained = ", ".join(f"{part} {low}" if low == high else f"{part} {low} to {high}" for part, low, high in spans)
    frozen = sum(rate.parameter.numel() for rate in rates if rate.lr is None)
    return f"learning rates: {trained}" + (f"; {frozen:,} weights frozen" if frozen else "")


def rows(rates: Sequence[ParameterRate]) -> list[list[ParameterRate]]:
    """Groups parameters by part (`backbone`, `heads.NAME`), learning rate and range of consecutive depths."""
    parts: dict[str, dict[float | None, list[ParameterRate]]] = {}
    for rate in rates:
        parts.setdefault(_part(rate.name), {}).setdefault(rate.lr, []).append(rate)
    groups: list[list[ParameterRate]] = []
    for by_rate in parts.values():
        runs = [run for same in by_rate.values() for run in _runs(same)]
        groups += sorted(runs, key=lambda run: run[0].depth or 0)
    return groups


def exact_patterns(names: Collection[str], among: Sequence[str]) -> list[str]:
    """A short list of patterns that match exactly these names and no others in `among`. A pattern covers a complete
    module where possible, with `*` in place of indices."""
    if names and all(".lora_" in name for name in names):  # of many layers, whose other parameters are frozen
        adapters = f"{commonpath([name.replace('.', '/') for name in names]).replace('/', '.')}.*lora_*"
        if all(name in names for name in among if fnmatchcase(name, adapters)):
            return [adapters]
    patterns: dict[str, None] = {}
    for pattern in _modules(names, among, ""):
        general = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", pattern)
        matches = re.compile(translate(general)).match
        patterns[general if all(name in names for name in among if matches(name)) else pattern] = None
    return list(patterns)


def _modules(names: Collection[str], among: Sequence[str], prefix: str) -> Iterator[str]:
    """Yields the outermost modules below a prefix whose names are all in `names`, and single names."""
    children: dict[str, list[str]] = {}
    for name in among:
        children.setdefault(name[len(prefix) :].split(".")[0], []).append(name)
    for child, inside in children.items():
        path = prefix + child
        if inside == [path]:
            yield from [path] if path in names else []
        elif all(name in names for name in inside) and path not in _CONTAINERS:
            yield f"{path}.*"
        elif any(name in names for name in inside):
            yield from _modules(names, inside, f"{path}.")


def _part(name: str) -> str:
    first, second, *_ = name.split(".")
    return first if first == "backbone" else f"{first}.{second}"


def _runs(rates: Sequence[ParameterRate]) -> Iterator[list[ParameterRate]]:
    """Splits parameters of one rate into runs of consecutive depths."""
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
