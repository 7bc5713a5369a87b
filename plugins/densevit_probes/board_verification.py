"""Runs rows of a board again, and compares digests and scores."""

import random
from collections.abc import Iterator
from pathlib import Path

from densevit import config as configs
from densevit.config import Overrides, layer_reading, yaml_io
from densevit.errors import DataError, DensevitError
from densevit_probes.board_page import protocols
from densevit_probes.board_rows import Row
from densevit_probes.probing import probe
from densevit_probes.protocols import Protocol
from densevit_workbench.benchmarking.digest import differing


def verify(
    folder: Path, count: int, seed: int, overrides: Overrides = (), device: str = "auto", trust: bool = False
) -> Iterator[tuple[str, bool]]:
    """Runs `count` measured rows again, drawn with a seed. Yields a line for each, and whether it holds: digests are
    equal, and each main metric is equal or within the interval of the row.

    folder: a board, or the folder of a protocol. overrides: keys of the rows' protocols to replace, as
    `data.root=...`. trust: whether rows may name a `module:Class`, whose code then runs. Raises ConfigError for one
    without trust, before any row is run.
    """
    rows = [(path, row) for _, by_file in protocols(folder) for path, row in by_file.items() if row.is_measured]
    if not rows:
        raise DataError(f"{folder}: there are no measured rows. Fix: add some with densevit probe --board.")
    drawn = random.Random(seed).sample(rows, min(count, len(rows)))
    for path, row in drawn:
        layer = layer_reading.over_base({**row.config, "probes": row.probes}, str(path))  # with the files that it names
        configs.values_of_file(yaml_io.write(layer.values), str(path), trust)
    for path, row in drawn:
        values = {**row.config, "probes": row.probes, "freeze": row.training == "frozen"}
        section = values.pop("backbone")
        try:
            result = probe(
                section,
                Protocol.of(values, path.parent.name, str(path), overrides),
                device=device,
                facts=True,
                **row.columns,
            )
        except DensevitError as error:
            raise DataError(f"{path}: {error}") from error
        changed = differing(result.facts["parts"], row.parts)
        verdicts = {metric: _verdict(row, metric, result.metrics.get(metric)) for metric in row.main}
        text = ", ".join(f"{metric} {verdict}" for metric, verdict in verdicts.items())
        network = "" if result.facts["network"] == row.network else "; the network's code or weights have changed"
        holds = not changed and not any("outside" in verdict for verdict in verdicts.values())
        yield f"{path.parent.name}, {row.backbone}: {changed or text}{network}", holds


def _verdict(row: Row, metric: str, value: float | None) -> str:
    expected, *bounds = row.scores[metric]
    if value is None or f"{value:.6g}" == f"{expected:.6g}":
        return "outside: undefined" if value is None else "equal"
    low, high = bounds or (expected, expected)
    where = "within" if low <= value <= high else "outside"
    return f"{value:.4g} {where} {low:.4g} to {high:.4g}"
