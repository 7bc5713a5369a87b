"""Runs a benchmark: cost, speed, memory and scores of several models, cell by cell."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from densevit.atomic_io import check_writable, locked_folder
from densevit.config import Config
from densevit.data.data_builder import build_data
from densevit.errors import ConfigError, DensevitError
from densevit.evaluation.metrics_file import finite
from densevit.grouping import grouped
from densevit.inference.model_loading import device_of
from densevit.interfaces import Class
from densevit.model import DenseModel, build_from_sections, classes_by_head
from densevit.paths import user_path
from densevit.reporting.html_page import Heading, fragment
from densevit_workbench.benchmarking import benchmark_tables
from densevit_workbench.benchmarking.attempts import Attempts, reported
from densevit_workbench.benchmarking.benchmark_results import CaseResult, Results
from densevit_workbench.benchmarking.cases import (
    PROTOCOL,
    Case,
    cases_of_configs,
    cases_of_protocol,
    main_metrics,
    setting_of,
)
from densevit_workbench.benchmarking.digest import hashed
from densevit_workbench.benchmarking.timing import MODES, Forward, check_modes, device_name, interleaved
from densevit_workbench.benchmarking.trainings import train_case
from densevit_workbench.model_cost import model_cost

ASSUMED_CLASSES = 80  # if a data set is not on this machine
DEFAULT_SIDE = 512  # for a config without data.image_size
RATES = (5e-4, 1e-3, 2e-3)
TRAININGS = "trainings"  # folder; one subfolder per model

Size = tuple[int, int]


@dataclass(repr=False)
class Benchmark:
    """A finished benchmark.

    results: the results of each model. folder: contains benchmark.md and benchmark.json.

    Example:
        >>> benchmark = densevit.benchmark(["setr_vit"], sizes=[64], batch_sizes=[1], rounds=1, device="cpu")
        >>> benchmark.errors
        {}
    """

    results: Mapping[str, CaseResult]
    folder: Path
    facts: Mapping[str, Any]

    @property
    def errors(self) -> dict[str, str]:
        """Error messages by model and failed step."""
        return {f"{name}: {step}": text for name, case in self.results.items() for step, text in case.errors.items()}

    def __repr__(self) -> str:
        """The folder and the names of the models, without their results."""
        return f"Benchmark(folder={str(self.folder)!r}, models={list(self.results)}, errors={len(self.errors)})"

    def _repr_html_(self) -> str:
        """The tables, which Jupyter displays for a benchmark at the end of a cell."""
        return fragment([Heading("Benchmark"), *benchmark_tables.parts(self.results, self.facts)])

    def markdown(self) -> str:
        """The tables, as in `benchmark.md`."""
        return benchmark_tables.markdown(self.results, self.facts)


def benchmark(
    configs: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    backbones: Sequence[str] = (),
    heads: Sequence[str] = (),
    protocol: str = PROTOCOL,
    sizes: Sequence[int | Size] = (),
    batch_sizes: Sequence[int] = (1, 8),
    modes: Sequence[str] = ("fp32",),
    device: str = "auto",
    rounds: int = 30,
    trust: bool = False,
    train: bool = False,
    images: int | None = None,
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = (),
    out: str | Path = "runs/benchmark",
    quiet: bool = True,
    command: str = "",
) -> Benchmark:
    """Measures models side by side: parameters, multiply-adds, latency, throughput, memory and scores.

    configs: config files, shipped configs' names, run folders (their scores are reused) or exported files (timed on the
    CPU by ONNX Runtime or PyTorch). backbones, heads: instead of configs, each backbone under each head by `protocol`,
    a config with candidate heads. overrides: keys of all configs or of the protocol, "data=FILE",
    "heads.setr.width=64". sizes: sides or (height, width) of the images; none: each
    config's `data.image_size`. modes: fp32, bf16 (autocast), fp32-compiled, bf16-compiled. rounds: timed runs of each
    cell. trust: runs the code of exported files, as in `load`.
    train: also trains each model, on `images` images (None: the config's budget). rates: learning rates to try, with
    backbones: a trial on an eighth of the images picks the rate with the lowest loss. seeds: one run per seed, for
    means and standard deviations; empty: the config's seed.
    out: a folder, with a subfolder per settings for the tables; stored results are reused, also by a benchmark with
    other models, so an interrupted one continues. quiet: no progress on stderr.
    command: the command to print in benchmark.md. `Benchmark.errors` reports failed models; the others are measured.
    Raises ConfigError for configs and names that do not exist, and if another benchmark writes to the folder.

    Example:
        >>> densevit.benchmark(["setr_vit"], sizes=[64], batch_sizes=[1], rounds=1, device="cpu")
        Benchmark(folder='runs/benchmark/...', models=['setr_vit'], errors=0)
    """
    if bool(backbones) != bool(heads):
        raise ConfigError("benchmark: give backbones together with heads, under which each is measured.")
    if bool(configs) == bool(backbones):
        raise ConfigError("benchmark: give configs, or backbones with heads, and not both.")
    measured = cases_of_protocol(protocol, backbones, heads, overrides) if heads else []
    cases = [*cases_of_configs(configs, overrides, trust), *measured]
    check_modes([*modes])
    if min([rounds, *batch_sizes, 1 if images is None else images]) < 1:
        raise DensevitError("benchmark: rounds, batch sizes and images are at least 1.")
    if train and any(case.file is not None for case in cases):
        raise ConfigError("benchmark: exported files cannot be trained. Fix: leave out train, or the files.")
    if seeds and not train:
        raise ConfigError("benchmark: seeds are for training runs. Fix: set train, or leave out seeds.")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"benchmark: a seed is given twice: {', '.join(map(str, seeds))}.")
    torch_device, folder = device_of(device), user_path(out)
    check_writable(folder, fix="Fix: name a folder with --out DIR.")
    chosen = tuple(rates) if backbones else ()
    prints = {case.name: hashed([case.fingerprint, *([images, chosen] if train else [])]) for case in cases}
    input_sizes = [(size, size) if isinstance(size, int) else (size[0], size[1]) for size in sizes]
    with locked_folder(folder):
        results = Results.of(folder / "benchmark.json")
        results.facts = {
            "command": command,
            "densevit": version("densevit"),
            "torch": torch.__version__,
            "device": device_name(torch_device),
            "threads": torch.get_num_threads(),
        }
        case_results: dict[str, CaseResult] = {}
        for case in cases:
            case_results[case.name] = results.case(case.name, prints[case.name], case.backbone, case.head)
            case_results[case.name].errors.clear()
            if case.metrics is not None and not train:
                case_results[case.name].training |= {
                    "metrics": finite(dict(case.metrics)),
                    "main": main_metrics(case.config(), case.metrics),
                    "lower_is_better": case.lower_is_better,
                }
        attempt, models = Attempts(case_results, results.write), _Models()

        for case in reported(cases, "cost", lambda case: case.name, quiet):
            attempt(case.name, "cost", partial(_cost, case, case_results[case.name], input_sizes, models))
        _measure(
            cases, case_results, attempt, models, input_sizes, [*batch_sizes], [*modes], torch_device, rounds, quiet
        )
        for number, case in enumerate(cases if train else (), 1):
            if not quiet:
                print(f"Training {number} of {len(cases)}: {case.name}", file=sys.stderr)
            training_folder = folder / TRAININGS / f"{case.name}-{prints[case.name]}"
            work = partial(train_case, case, case_results[case.name], training_folder, images, chosen, seeds)
            attempt(case.name, "training", partial(work, results.write))
        settings = [prints, seeds, input_sizes, batch_sizes, modes, torch_device, rounds]
        finished = Benchmark(case_results, folder / hashed(settings), results.facts)
        results.write()
        Results(finished.folder / "benchmark.json", case_results, results.facts).write()
        (finished.folder / "benchmark.md").write_text(finished.markdown(), encoding="utf-8")
    return finished


def _size(config: Config) -> Size:
    side = config.data.image_size or DEFAULT_SIDE
    return (side, side) if isinstance(side, int) else (side[0], side[1])


class _Models:
    """Builds models with random weights. Opens each data set once, for its classes."""

    def __init__(self) -> None:
        self.classes: dict[
            str, dict[str, Sequence[Class]] | None
        ] = {}  # by head, for each case; None: no data on this machine

    def build(self, case: Case) -> DenseModel:
        config = case.config()
        if case.name not in self.classes:
            try:
                train = build_data(config).train
                self.classes[case.name] = classes_by_head(config, train)
            except DensevitError:
                self.classes[case.name] = None
        classes = self.classes[case.name]
        if classes is None:
            assumed = [Class(f"class {i}", i, (0, 0, 0)) for i in range(ASSUMED_CLASSES)]
            classes = dict.fromkeys(config.heads, assumed)
        return build_from_sections(config, classes, pretrained=False)


def _cost(case: Case, result: CaseResult, sizes: Sequence[Size], models: _Models) -> None:
    config = case.config()
    result.setting = setting_of(config)
    if case.file is not None:
        return  # a runtime's graph has no modules to count
    case_sizes = [*sizes] or [_size(config)]
    missing = [size for size in case_sizes if _named(size) not in result.cost.get("by_size", {})]
    if not missing:
        return
    model = models.build(case)
    for size in missing:
        cost = model_cost(model, size)
        result.cost |= {"parameters": cost.parameters, "trained_parameters": cost.trained_parameters}
        if models.classes[case.name] is None:
            result.cost["assumed_classes"] = ASSUMED_CLASSES
        result.cost.setdefault("by_size", {})[_named(size)] = {
            "multiply_adds": cost.multiply_adds,
        }


def _measure(
    cases: Sequence[Case],
    results: Mapping[str, CaseResult],
    attempt: Attempts,
    models: _Models,
    sizes: Sequence[Size],
    batch_sizes: Sequence[int],
    modes: Sequence[str],
    device: torch.device,
    rounds: int,
    quiet: bool,
) -> None:
    """Times the models in interleaved rounds, for each mode, batch and size."""
    groups = grouped(
        (cell, case)
        for case in cases
        if "cost" not in results[case.name].errors
        for cell in product(modes, batch_sizes, [*sizes] or [_size(case.config())])
        if timing_key(device, *cell) not in results[case.name].timings
    )
    for cell in reported(groups, "latency", lambda cell: timing_key(device, *cell), quiet):
        mode, batch, size = cell
        members, key = groups[cell], timing_key(device, *cell)
        runs: dict[str, Forward] = {}
        for case in members:
            attempt(case.name, key, partial(_prepare, runs, case, models, batch, size, device, mode))
        timings, errors = interleaved(runs, rounds)
        for name, timing in timings.items():
            results[name].timings[key] = asdict(timing)
        for name, error in errors.items():
            attempt.failed(name, key, error)
        attempt.save()
        if MODES[mode][1]:
            torch.compiler.reset()


def _prepare(
    runs: dict[str, Forward], case: Case, models: _Models, batch: int, size: Size, device: torch.device, mode: str
) -> None:
    if case.file is not None and (device.type, mode) != ("cpu", "fp32"):
        raise DensevitError(
            "exported files are measured on the CPU in their own precision. Fix: device cpu, modes fp32."
        )
    runs[case.name] = Forward(models.build(case) if case.file is None else case.file, batch, size, device, mode)


def timing_key(device: torch.device, mode: str, batch: int, size: Size) -> str:
    """The key of a timing, such as "cpu fp32 8 x 128x128"."""
    return f"{device.type} {mode} {batch} x {_named(size)}"


def _named(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
