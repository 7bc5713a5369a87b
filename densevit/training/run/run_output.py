"""Files and terminal output at the start and the end of a run."""

import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich import get_console
from rich.table import Table

from densevit import config as configs
from densevit.atomic_io import replaced_file
from densevit.config import Config
from densevit.errors import counted, one_line
from densevit.evaluation import metrics_file, tables_file
from densevit.evaluation.error_analysis import ERRORS
from densevit.evaluation.metric_order import error_metrics, sign
from densevit.evaluation.metrics_table import metrics_table
from densevit.inference.model_loading import load
from densevit.model.head_inference import predicts_boxes
from densevit.model.parameter_groups import ParameterRate, method_parameters
from densevit.reporting.run_report import write_report
from densevit.terminal import table, text_console
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.training.callbacks.best_model import BestModel
from densevit.training.loop.optim import learning_rate
from densevit.training.loop.sharding import full_state_dict
from densevit.training.loop.supervised_method import Supervised
from densevit.training.run.drawn_images import draw_images
from densevit.training.run.folder import RunFolder
from densevit.training.run.metrics_csv import MetricsCsv
from densevit.training.run.plan import Plan
from densevit.training.run.resumable_errors import resume_hint
from densevit.training.run.start_notes import missing_necks, random_backbone
from densevit.weights import licences, model_file
from densevit.weights.weights_table import weights_line, weights_table

FINISHED = ("config.yaml", "model.safetensors", "metrics.json", "report.html")  # files of a complete run
STOPPED = "stopped"  # an empty file in the folder of a run that a signal stopped
_LOG_WIDTH = 120
_ALMOST_EMPTY = 0.01  # of a main metric
_LARGE_ERROR = 0.05  # lost AP50
_ERROR_PAGE = "docs/evaluate.md#detection-and-instance-masks"


def start(plan: Plan, folder: RunFolder) -> None:
    """Writes config.yaml and prints model, data and budget."""
    if plan.trainer.is_global_zero:
        if folder.new or not plan.is_complete:
            _prepare(plan, folder)
        _log(plan, folder.path / "log.txt")
        for line in (*_origin(plan, folder), *announcement(plan, folder.path)):
            get_console().print(line)
    for logger in plan.trainer.loggers:
        logger.log_hyperparams(plan.config.model_dump())


def _origin(plan: Plan, folder: RunFolder) -> Iterator[str]:
    """Yields lines on the start of the run: weights, or a checkpoint and the differences from its config."""
    if plan.changed:
        yield "Differences from the checkpoint's config:"
        yield from (f"  {key}: {change}" for key, change in plan.changed.items())
    if plan.checkpoint is not None and plan.checkpoint.best["best"] is not None and plan.best_epoch().best is None:
        yield "The best epoch so far is of other data or another evaluation: the next validation counts as the best."
    trained, batches = plan.checkpoint and plan.checkpoint.trained, plan.data.batches_per_epoch(plan.trainer.world_size)
    if trained and trained.length not in (None, batches) and 0 < trained.position < trained.length:
        yield "The epoch continues at the same share of its images in another order: a few images repeat."
    if plan.checkpoint is None:
        yield from plan.config.notes
        if not folder.new:
            yield f"{folder.path} has no checkpoint yet: training starts again from the beginning."
    elif plan.checkpoint.step >= plan.budget.steps:
        yield _all_trained(plan, folder.path)
    for fit in plan.loaded:
        yield weights_line(fit)
        yield from (f"Warning: {warning}" for warning in fit.warnings)
    if plan.loaded:
        yield f"in full: {folder.path / 'log.txt'}"


def _log(plan: Plan, path: Path) -> None:
    """Appends loaded tensors and learning rates to the run's log."""
    step = 0 if plan.checkpoint is None else plan.checkpoint.step
    with path.open("a", encoding="utf-8") as file:
        log = text_console(file=file, width=_LOG_WIDTH)
        tables = [*map(weights_table, plan.loaded), rates_table(plan.rates)]
        log.print(f"{datetime.now():%Y-%m-%d %H:%M:%S}, step {step:,}", *tables, sep="\n")


def rates_table(rates: Sequence[ParameterRate]) -> Table:
    """One row per optimiser group, named by its first parameter, and one for frozen parameters."""
    groups: dict[tuple[Any, ...], list[ParameterRate]] = {}
    for rate in rates:
        key = (None, 0.0) if not rate.parameter.requires_grad else (rate.lr, rate.weight_decay, *rate.options.items())
        groups.setdefault(key, []).append(rate)
    rows = []
    for (lr, decay, *_), group in groups.items():
        number = sum(rate.parameter.numel() for rate in group)
        rows.append([group[0].name, "frozen" if lr is None else f"{lr:.3g}", f"{decay:g}", f"{number:,}"])
    return table(rows, ["first parameter", "learning rate", "weight decay", "number"], right=range(1, 4))


def _prepare(plan: Plan, folder: RunFolder) -> None:
    """Writes config.yaml, and a metrics.json without metrics if no best epoch is known; removes the metrics of steps
    after the checkpoint of a resumed run."""
    path, checkpoint = folder.path, plan.checkpoint
    with replaced_file(path / "config.yaml") as temporary:
        temporary.write_text(configs.dump(plan.config, derived_values(plan)), encoding="utf-8")
    (path / "checkpoints").mkdir(exist_ok=True)
    (path / STOPPED).unlink(missing_ok=True)
    if folder.new or plan.best_epoch().best is None:  # a resumed run may have metrics of other data
        metrics_file.write({}, path / "metrics.json")
        tables_file.remove_tables(path)
    if not folder.new:
        MetricsCsv(path / "metrics.csv").remove_after(0 if checkpoint is None else checkpoint.step)


def derived_values(plan: Plan) -> dict[str, str]:
    """Derived values, for comments in config.yaml."""
    images, method_only = plan.budget.images_per_step, method_parameters(plan.model, plan.method)
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
    values |= dict(configs.unwritten(plan.config.model_dump()))
    if method_only:
        values["parameters of the method"] = f"{sum(p.numel() for p in method_only):,}"
    values |= {f"licences of {source}": str(stated) for source, stated in plan.model.licences.items()}
    for name, classes in plan.model.classes.items():
        values[f"classes of {name}"] = ", ".join(c.name for c in classes)
    return values


def announcement(plan: Plan, folder: Path) -> Iterator[str]:
    """Yields lines on the model, a method other than supervised, the data, the budget and the devices."""
    config, data, trainer = plan.config, plan.data, plan.trainer
    heads = ", ".join(f"{name} ({section.name})" for name, section in config.heads.items())
    what = f"{config.backbone.name} -> {heads}" if heads else config.backbone.name
    how = "" if isinstance(plan.method, Supervised) else f", method {config.method.name}"
    trained = sum(rate.parameter.numel() for rate in plan.rates if rate.parameter.requires_grad)
    yield from (f"{key}: {why}" for key, why in configs.unwritten(config.model_dump()))
    yield f"{what}{how}, {trained / 1e6:.2f} M trained parameters"
    for source, stated in plan.model.backbone.licences.items():  # `weights` report theirs
        yield licences.line(source, stated)
    size = "" if config.data.image_size is None else f"; image_size {config.data.image_size}"
    images = f"{len(data.train):,} training images, {len(data.val):,} validation images"
    yield f"{config.data.folder_name}: {images}{size}"
    if not data.train.channels.is_rgb:
        yield f"channels: {plan.model.channels}"
    yield from filter(None, (data.val.conversion, data.val.division))
    yield plan.budget.describe(len(data.train))
    yield from (*missing_necks(plan), *random_backbone(plan))
    device = trainer.strategy.root_device
    hardware = f"cpu, {torch.get_num_threads()} threads"
    if device.type != "cpu":
        hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    yield f"{trainer.world_size} x {hardware}, {trainer.precision}; writing to {folder}/"


def show_complete(plan: Plan, folder: Path) -> None:
    """Prints the metrics of a run without remaining steps. Writes nothing."""
    if plan.trainer.is_global_zero:
        assert plan.checkpoint is not None
        console = get_console()
        if plan.checkpoint.step < plan.budget.steps:
            console.print(_ended_early(plan.best_epoch(), plan.checkpoint.step, plan))
        else:
            console.print(_all_trained(plan, folder))
        if metrics := metrics_file.read(folder / "metrics.json"):
            console.print(metrics_table(metrics), soft_wrap=False)


def _all_trained(plan: Plan, folder: Path) -> str:
    longer = f"densevit train --resume {folder} trainer.max_images=N, with a larger N"
    steps = f"{plan.budget.steps:,} steps{', without ' * bool(plan.changed)}{', '.join(plan.changed)}"
    return f"{folder} has trained all of its {steps}. To train longer: {longer}."


def _ended_early(best: BestEpoch, step: int, plan: Plan) -> str:
    """One line on a run that `trainer.patience` or a callback has ended."""
    cause = "A callback"
    if best.exhausts(plan.config.trainer.patience):
        monitored = " and ".join(best.monitored)
        cause = f"{counted(best.stale, 'validation')} without a better {monitored} (trainer.patience)"
    return f"{cause} ended training at step {step:,} of {plan.budget.steps:,}."


def finish(
    plan: Plan,
    folder: Path,
    best: BestModel,
    indices: Mapping[int | str, int],
    stopped: bool,
    resume_with: str | None = None,
) -> None:
    """Prints why training ended and the next commands, and writes the visualizations and the report.

    indices: data set indices of the validation images by image id. stopped: whether a signal stopped training.
    resume_with: the parameter of `fit`.
    """
    if best.best_epoch.best is None:  # stopped before the first validation: saves the current weights
        model = plan.method.saved_model(plan.model)
        state = full_state_dict(model)  # a collective operation of all processes
        if plan.trainer.is_global_zero:
            model_file.save(model, folder / "model.safetensors", state, plan.trainer.global_step)
    if not plan.trainer.is_global_zero:
        return
    if stopped:
        (folder / STOPPED).touch()
    console, step = get_console(), plan.trainer.global_step
    if not stopped and step < plan.budget.steps:
        console.print(_ended_early(best.best_epoch, step, plan))
    if best.best_epoch.stale:
        later = counted(best.best_epoch.stale, "later validation")
        console.print(f"Model and metrics are from the best epoch; no improvement in {later}.")
    _write_report(plan, folder, indices)
    if stopped:
        console.print(f"Stopped.{resume_hint(folder, resume_with)}")
    elif resume_with is None:
        for line in (*_next_commands(plan.config, folder), *_largest_errors(plan)):
            console.print(line)


def _next_commands(config: Config, folder: Path) -> Iterator[str]:
    run = shlex.quote(str(folder))
    yield "Next:"
    if config.heads:
        yield from (f"  densevit evaluate {run}", f"  densevit predict {run} IMAGE", f"  densevit export {run}")
    else:
        yield f"  densevit train CONFIG backbone.weights={run}"
    for key in ("max_epochs", "max_images", "max_steps"):
        if (number := getattr(config.trainer, key)) is not None:
            yield f"  densevit train --resume {run} trainer.{key}={2 * number}"
    if config.heads and "root" in config.data.options:  # on more data: a trained model needs a lower rate
        [(key, lr)] = config.optim.model_dump(include={"lr", "lr_per_256"}, exclude_none=True).items()
        yield (
            f"  densevit train {run} weights={run} data.root=FOLDER "
            f"optim.{key}={lr / 2 if config.weights is None else lr:g}"
        )


def _largest_errors(plan: Plan) -> Iterator[str]:
    """Yields the type of error that costs each head most, and what more passes over the images are for, if a head
    without NMS predicts several boxes per object."""
    for name, head in plan.model.heads.items():
        tables = plan.evaluators[name].tables(plan.evaluators[name].records)
        errors = [row for row in tables.get("errors", tables.get("mask-errors", ())) if row[0] in (*ERRORS, "missed")]
        lost, error = max(((float(row[1]), row[0]) for row in errors if float(row[1]) > 0), default=(0.0, ""))
        if lost > _LARGE_ERROR:
            fix = f"see {_ERROR_PAGE}."
            if error == "duplicate" and predicts_boxes(head) and head.nms is None:
                fix = (
                    "a head without NMS learns late to predict one box per object: give it more passes over the "
                    f"images, or predict with --nms 0.6 (inference.nms); {fix}"
                )
            yield f"{name}: the largest error of the last validation, {error}, costs {lost:.3f} AP50: {fix}"


def _write_report(plan: Plan, folder: Path, indices: Mapping[int | str, int]) -> None:
    """Writes the visualizations and the report, and prints the metrics and the files.

    The run is complete and saved, so a failure is a warning with the command that repeats the output.
    """
    console = get_console()
    try:
        write_report(folder)  # first without visualizations, which take longer
        if plan.config.heads:
            draw_images(load(folder, model=plan.passed), plan.data, folder, indices)
            write_report(folder)
    except BrokenPipeError:  # stdout is closed
        raise
    except Exception as error:  # from a plugin's `draw`, a full disk, a damaged file
        again = f"densevit evaluate {folder}"
        warnings.warn(f"The report is not complete: {one_line(error)}. To try again: {again}", stacklevel=2)
    if metrics := metrics_file.read(folder / "metrics.json"):
        console.print(metrics_table(metrics), soft_wrap=False)
    mains, errors = [f"{n}/{e.main}" for n, e in plan.evaluators.items()], error_metrics(plan.evaluators)
    scores = {name: metrics.get(name, 1.0) for name in mains if sign(name, errors) > 0}
    low = [f"{name} is {score:.2g}" for name, score in scores.items() if score < _ALMOST_EMPTY]
    if low:
        console.print(f"{', '.join(low)}: `densevit doctor {shlex.quote(str(folder))}` names likely causes.")
    console.print(f"model: {folder / 'model.safetensors'}   report: {folder / 'report.html'}")
