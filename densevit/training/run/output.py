"""Files and terminal output at the start and the end of a run."""

import math
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich import get_console
from rich.table import Table

from densevit import config as configs
from densevit.atomic_io import replaced_file
from densevit.config import DataSection, yaml_io
from densevit.errors import counted, one_line
from densevit.evaluation import metrics_file
from densevit.evaluation.metrics_table import metrics_table
from densevit.inference.loading import load
from densevit.model.parameter_groups import ParameterRate, method_parameters
from densevit.reporting.report import write_report
from densevit.terminal import table, text_console
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.training.callbacks.best_model import BestModel
from densevit.training.callbacks.stop_signals import StopSignals
from densevit.training.loop.method import Supervised
from densevit.training.loop.optim import learning_rate
from densevit.training.loop.sharding import full_state_dict
from densevit.training.run.config_checks import check_budget
from densevit.training.run.drawn_images import draw_images
from densevit.training.run.errors import resume_command
from densevit.training.run.folder import RunFolder
from densevit.training.run.metrics_csv import MetricsCsv
from densevit.training.run.next_commands import next_commands
from densevit.training.run.plan import Plan
from densevit.weights import licences, model_file
from densevit.weights.weights_table import weights_line, weights_table

FINISHED = ("config.yaml", "model.safetensors", "metrics.json", "report.html")  # of a complete run
_LOG_WIDTH = 120
_ALMOST_EMPTY = 0.01  # of a main metric
_INPUT = ("data.image_size", "data.transforms")
_OTHER_INPUT = (
    "The best epoch is chosen among epochs before and after, although their images may differ in size. To start a "
    "separate run from these weights: densevit train CONFIG weights={}"
)
_OTHER_METRICS = "The best epoch so far was selected by other metrics: the next validation counts as the best."
_EXTEND = "To train longer: densevit train --resume {} trainer.max_images=N, with a larger N."


def start(plan: Plan, folder: RunFolder) -> None:
    """Writes config.yaml and prints the model, the data and the budget."""
    path, config, console = folder.path, plan.config, get_console()
    if plan.trainer.is_global_zero:
        if folder.new or not plan.is_complete:
            _prepare(plan, folder)
        if plan.changed:
            console.print("Differences from the checkpoint's config:")
            for key, change in plan.changed.items():
                console.print(f"  {key}: {change}")
            if any(key.startswith(_INPUT) for key in plan.changed):
                console.print(_OTHER_INPUT.format(path))
            if plan.metrics_changed:
                console.print(_OTHER_METRICS)
        if plan.checkpoint is None:
            for line in config.set_aside:
                console.print(line)
        for fit in plan.loaded:
            console.print(weights_line(fit))
            for warning in fit.warnings:
                console.print(f"Warning: {warning}", style="yellow")
        _log(plan, path / "log.txt")
        if plan.loaded:
            console.print(f"in full: {path / 'log.txt'}")
        for line in announcement(plan, path):
            console.print(line)
        if plan.checkpoint is None:
            check_budget(plan.budget, config)
            if not folder.new:
                console.print(f"{path} has no checkpoint yet: training starts again from the beginning.")
        elif plan.checkpoint.step >= plan.budget.steps:
            console.print(_all_trained(plan, path))
    for logger in plan.trainer.loggers:
        logger.log_hyperparams(config.model_dump())


def _log(plan: Plan, path: Path) -> None:
    """Appends the loaded tensors and the learning rates of a start to the run's log."""
    step = 0 if plan.checkpoint is None else plan.checkpoint.step
    with path.open("a", encoding="utf-8") as file:
        log = text_console(file=file, width=_LOG_WIDTH)
        tables = [*map(weights_table, plan.loaded), rates_table(plan.rates)]
        log.print(f"{datetime.now():%Y-%m-%d %H:%M:%S}, step {step:,}", *tables, sep="\n")


def rates_table(rates: Sequence[ParameterRate]) -> Table:
    """One row per group of the optimiser, named by its first parameter, and of the frozen parameters."""
    groups: dict[tuple[Any, ...], list[ParameterRate]] = {}
    for rate in rates:
        key = (None, 0.0) if rate.lr is None else (rate.lr, rate.weight_decay, *rate.options.items())
        groups.setdefault(key, []).append(rate)
    rows = []
    for (lr, decay, *_), group in groups.items():
        number = sum(rate.parameter.numel() for rate in group)
        rows.append([group[0].name, "frozen" if lr is None else f"{lr:.3g}", f"{decay:g}", f"{number:,}"])
    return table(rows, ["first parameter", "learning rate", "weight decay", "number"], right=range(1, 4))


def _prepare(plan: Plan, folder: RunFolder) -> None:
    """Writes config.yaml, and removes the metrics of steps after the checkpoint of a resumed run."""
    path, checkpoint = folder.path, plan.checkpoint
    with replaced_file(path / "config.yaml") as temporary:
        temporary.write_text(configs.dump(plan.config, derived_values(plan)), encoding="utf-8")
    (path / "checkpoints").mkdir(exist_ok=True)
    if not folder.new:
        MetricsCsv(path / "metrics.csv").remove_after(0 if checkpoint is None else checkpoint.step)


def derived_values(plan: Plan) -> dict[str, str]:
    """Returns derived values, which config.yaml has as comments."""
    images, of_method = plan.budget.images_per_step, method_parameters(plan.model, plan.method)
    backbone, count = plan.model.backbone, len(plan.data.train)
    values = {
        "training images": str(count),
        "validation images": str(len(plan.data.val)),
        "images per optimiser step": str(images),
        "optimiser steps": f"{plan.budget.steps:,}, {plan.budget.images / count:.2f} epochs",
        "learning rate": f"{learning_rate(plan.config.optim, images):g}",
        "precision": str(plan.trainer.precision),
        "feature channels and strides": f"{list(backbone.channels)} at {list(backbone.strides)}",
        "parameters": f"{sum(p.numel() for p in plan.model.parameters()):,}",
    }
    if of_method:
        values["parameters of the method"] = f"{sum(p.numel() for p in of_method):,}"
    for source, licence in plan.model.licences.items():
        values[f"licence of {source}"] = licence
    for name, classes in plan.model.classes.items():
        values[f"classes of {name}"] = ", ".join(c.name for c in classes)
    return values


def announcement(plan: Plan, folder: Path) -> Iterator[str]:
    """Yields lines on the model, the method unless it is supervised, the data, the budget and the devices."""
    config, data, trainer = plan.config, plan.data, plan.trainer
    heads = ", ".join(f"{name} ({section.name})" for name, section in config.heads.items())
    what = f"{config.backbone.name} -> {heads}" if heads else config.backbone.name
    how = "" if isinstance(plan.method, Supervised) else f", method {config.method.name}"
    trained = sum(rate.parameter.numel() for rate in plan.rates if rate.lr is not None)
    device = trainer.strategy.root_device
    hardware = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )
    yield f"{what}{how}, {trained / 1e6:.2f} M trained parameters"
    for source, licence in plan.model.backbone.licences.items():  # those of `weights` are in their report
        yield licences.line(source, licence)
    size = "" if config.data.image_size is None else f"; image_size {config.data.image_size}"
    images = f"{len(data.train):,} training images, {len(data.val):,} validation images"
    yield f"{config.data.title}: {images}{size}"
    if not data.train.channels.is_rgb:
        colors = data.val_transform.transforms.recoloring not in ("none", [])
        yield f"channels: {plan.model.channels}" + ("; colours are not changed" if colors else "")
    yield from filter(None, (data.val.conversion, data.val.division))
    yield plan.budget.describe(len(data.train))
    yield from _phases(config.data, plan.budget.steps)
    available = 0 if device.type == "cpu" else torch.accelerator.device_count()
    unused = f", of {available} (trainer.devices={config.trainer.devices})" if available > trainer.world_size else ""
    yield f"{trainer.world_size} x {hardware}{unused}, {trainer.precision}; writing to {folder}/"


def _phases(section: DataSection, steps: int) -> Iterator[str]:
    """Yields lines on the sizes of multi-scale training and on the final phase."""
    if section.multi_scale is not None:
        sizes = sorted(set(section.multi_scale))
        drawn = f"{sizes[0]}" if len(sizes) == 1 else f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"
        yield f"multi-scale: each batch has one of {drawn}"
    if section.final_phase is not None:
        changed = yaml_io.write_line(section.final_phase.options)
        first = math.ceil(section.final_phase.start * steps) + 1
        yield f"final phase: {changed} from step {first:,} of {steps:,}"


def show_complete(plan: Plan, folder: Path) -> None:
    """Prints the metrics of a run without steps left. Writes nothing."""
    if plan.trainer.is_global_zero:
        assert plan.checkpoint is not None
        step = plan.checkpoint.step
        ended = _ended(_without_a_better(plan.best_epoch()), step, plan)
        get_console().print(ended if step < plan.budget.steps else _all_trained(plan, folder))
        if metrics := metrics_file.read(folder / "metrics.json"):
            get_console().print(metrics_table(metrics), soft_wrap=False)


def _without_a_better(best: BestEpoch) -> str:
    return f"{counted(best.stale, 'validation')} without a better {' and '.join(best.monitored)} (trainer.patience)"


def _ended(cause: str, step: int, plan: Plan) -> str:
    return f"{cause} ended the training at step {step:,} of {plan.budget.steps:,}."


def _all_trained(plan: Plan, folder: Path) -> str:
    return f"{folder} has trained all of its {plan.budget.steps:,} steps. {_EXTEND.format(folder)}"


def finish(
    plan: Plan,
    folder: Path,
    best: BestModel,
    indices: Mapping[int | str, int],
    stopped: bool,
    signals: StopSignals,
    resume_with: str | None = None,
) -> None:
    """Prints why the training ended and the commands that follow, and writes the visualizations and the report.

    indices: data set indices of the validation images by image id. stopped: whether a signal stopped the training.
    resume_with: the command to resume, see `fit`.
    """
    unfinished = best.best_epoch.best is None  # stopped before the first validation: saves the current weights
    model = plan.method.saved_model(plan.model)
    state = full_state_dict(model) if unfinished else {}  # a collective operation of all processes
    if unfinished and plan.trainer.is_global_zero:
        model_file.save(model, folder / "model.safetensors", plan.config, state, plan.trainer.global_step)
        metrics_file.write({}, folder / "metrics.json")
    if unfinished:
        plan.trainer.strategy.barrier()  # `Run.metrics` reads the file in all processes
    if not plan.trainer.is_global_zero:
        return
    console, step = get_console(), plan.trainer.global_step
    if not stopped and step < plan.budget.steps:
        cause = _without_a_better(best.best_epoch) if best.exhausted else "A callback"
        console.print(_ended(cause, step, plan))
    if best.best_epoch.stale:
        later = counted(best.best_epoch.stale, "later validation")
        console.print(f"The model and the metrics are those of the best epoch; no improvement in {later}.")
    _write_report(plan, folder, indices, signals)
    if stopped:
        console.print(f"Stopped. Resume with: {resume_with or resume_command(folder)}")
    elif resume_with is None:
        for line in next_commands(plan.config, plan.model, folder):
            console.print(line)


def _write_report(plan: Plan, folder: Path, indices: Mapping[int | str, int], signals: StopSignals) -> None:
    """Writes the visualizations and the report, and prints the metrics and the files.

    The training is complete and saved, so failures are warnings with the command that repeats the output. A signal
    stops the drawing.
    """
    files = [f"model: {folder / 'model.safetensors'}"]
    with _warning("The report was not written", f"densevit report {folder}"):
        write_report(folder)  # first without visualizations, which take longer
        files.append(f"report: {folder / 'report.html'}")
    again = f"densevit evaluate {folder}"
    if plan.config.heads:
        with _warning("The visualizations were not written", again), signals.interrupting():
            draw_images(load(folder), plan.data, folder, indices)
            files.append(f"visualizations: {folder / 'predictions'}/")
        with _warning("The report was not written", f"densevit report {folder}"):
            write_report(folder)
    with _warning("The metrics cannot be read", again):
        metrics = metrics_file.read(folder / "metrics.json")
        if metrics:
            get_console().print(metrics_table(metrics), soft_wrap=False)
        mains = [f"{name}/{one.main}" for name, one in plan.evaluators.items() if one.main not in one.lower_is_better]
        low = [f"{name} is {metrics[name]:.2g}" for name in mains if metrics.get(name, 1.0) < _ALMOST_EMPTY]
        if low:
            get_console().print(f"{', '.join(low)}: `densevit doctor {shlex.quote(str(folder))}` names likely causes.")
    get_console().print("   ".join(files))


@contextmanager
def _warning(what: str, command: str) -> Iterator[None]:
    """Turns an error into a warning. command: the command that repeats the failed output."""
    try:
        yield
    except BrokenPipeError:  # stdout is closed; the files are written
        raise
    except Exception as error:  # from a plugin's `draw`, a full disk, a damaged file, a signal
        warnings.warn(f"{what}: {one_line(error)}. To try again: {command}", stacklevel=3)
