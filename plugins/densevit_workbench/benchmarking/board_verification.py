"""Runs rows of a board again, and compares digests and scores."""

import shlex
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from itertools import islice
from pathlib import Path

from densevit.cli import command
from densevit.errors import DataError
from densevit_workbench.benchmarking.benchmark_results import CaseResult
from densevit_workbench.benchmarking.board_rows import Row, read_rows
from densevit_workbench.benchmarking.cases import Case, cases_of_protocol, setting_of
from densevit_workbench.benchmarking.digest import differing, protocol_of
from densevit_workbench.benchmarking.suite import RATES
from densevit_workbench.benchmarking.trainings import train_case


def verify(path: Path, count: int) -> Iterator[tuple[str, bool]]:
    """Runs the first `count` measured rows of a file again. Yields a line for each, and whether it holds: digests are
    equal, and each main metric is equal or within the interval of the row.

    Raises DataError for a file without measured rows, and for a row whose command has another protocol than its digest.
    """
    rows = [row for row in read_rows(path) if row.is_measured]
    if not rows:
        raise DataError(f"{path}: found no measured rows. Fix: add some with densevit benchmark --board.")
    cases = [_case(row, path) for row in islice(rows, count)]  # before any of them runs
    for row, (case, arguments) in zip(rows, cases, strict=False):
        result = CaseResult(case.fingerprint, case.backbone, case.head, setting_of(case.config()))
        seeds = [*map(int, row.texts["seeds"].split())]
        with tempfile.TemporaryDirectory() as folder:
            train_case(case, result, Path(folder) / "run", arguments.images, _rates(arguments), seeds, lambda: None)
        name, changed = row.texts["backbone"], differing(result.training["digest"], row.parts)
        verdicts = {metric: _verdict(row, metric, result.metrics.get(metric, float("nan"))) for metric in row.main}
        text = ", ".join(f"{metric} {verdict}" for metric, verdict in verdicts.items())
        yield f"{name}: {changed or text}", not changed and not any("outside" in v for v in verdicts.values())


def _case(row: Row, path: Path) -> tuple[Case, Namespace]:
    """The case of a row by its command, with the command's arguments."""
    name, text = row.texts["backbone"], row.texts["command"]
    program, subcommand, *words = [*shlex.split(text), "", ""]
    try:
        with redirect_stderr(StringIO()):  # argparse's usage
            arguments = command("benchmark")[1].parse_args([word for word in words if word])
    except SystemExit:
        arguments = None
    if (program, subcommand) != ("densevit", "benchmark") or arguments is None:
        raise DataError(f"{path}: {name}: expected a command densevit benchmark ...; found: {text}")
    overrides = [word for word in arguments.configs if "=" in word]
    cases = cases_of_protocol(arguments.protocol, arguments.backbones, arguments.heads, overrides)
    case = next((case for case in cases if (case.backbone, case.head) == (name, path.stem)), None)
    if case is None:
        raise DataError(f"{path}: {name}: its command measures {', '.join(case.name for case in cases) or 'nothing'}.")
    rates = _rates(arguments)
    trainer = {"max_images": arguments.images} if arguments.images else {}
    config = case.config(optim={"lr": rates[0]}, trainer=trainer)
    protocol = protocol_of(config, rates if len(rates) > 1 else ())
    if protocol != row.texts["protocol"]:
        raise DataError(
            f"{path}: {name}: the protocol {row.texts['protocol']} of its digest is not that of its config, "
            f"{protocol}. Fix: measure the row again."
        )
    return case, arguments


def _rates(arguments: Namespace) -> list[float]:
    return list(RATES if arguments.rates is None else arguments.rates)


def _verdict(row: Row, metric: str, value: float) -> str:
    expected, low, high = row.scores[metric]
    if f"{value:.6g}" == f"{expected:.6g}":
        return "equal"
    where = "within" if low <= value <= high else "outside"
    return f"{value:.4g} {where} {low:.4g} to {high:.4g}"
