"""Training runs: starts or resumes a training and writes the run's folder."""

import errno
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import Logger
from rich import get_console, reconfigure
from rich.console import Console

from densevit import config as configs
from densevit.config import Config
from densevit.config.values import seconds_of
from densevit.data.build import Data, build_data
from densevit.data.loading.dataloader import worker_failure
from densevit.errors import DensevitError, TrainingError
from densevit.evaluation import metrics_file
from densevit.inference.loading import load
from densevit.model import DenseModel, build_model
from densevit.model.parameter_groups import parameter_groups, parameter_rates
from densevit.training.budget import Budget
from densevit.training.callbacks.budget import BudgetCallback
from densevit.training.callbacks.checkpointing import RunFolder, Stopped
from densevit.training.callbacks.ema import ExponentialMovingAverage
from densevit.training.callbacks.evaluation import EvaluationCallback
from densevit.training.callbacks.progress import CONSOLE, ProgressBar, ValidationLines
from densevit.training.callbacks.step_metrics import StepMetrics
from densevit.training.checks import check_budget, check_monitor, check_training
from densevit.training.dense_module import DenseModule
from densevit.training.evaluation import build_evaluators
from densevit.training.lightning_logging import silence_lightning
from densevit.training.logger import MetricsCsv
from densevit.training.optim import learning_rate
from densevit.training.peers import Peers, watching
from densevit.training.resuming import Checkpoint, changes
from densevit.training.run_folder import choose_together
from densevit.training.stop_signals import requeue
from densevit.training.trainer import build_trainer
from densevit.training.unused_parameters import freeze_unused
from densevit.visualization.rates_table import rates_table
from densevit.visualization.report import write_report
from densevit.visualization.samples import draw_samples
from densevit.visualization.tables import metrics_table
from densevit.visualization.weights_table import weights_table
from densevit.weights import model_file
from densevit.weights.pretrained import load_pretrained

_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT),
)


class Outcome(NamedTuple):
    """The result of a training. stopped_by: the signal that stopped it, 0 if it ran to its end."""

    folder: Path
    stopped_by: int


def train(config: Config, run_dir: Path | None = None, name: str = "run") -> Path:
    """Trains the model that a config describes, and returns the run's folder.

    The config, the data and the weights are checked before the folder is created.
    """
    return run_training(config, run_dir, name).folder


def run_training(config: Config, run_dir: Path | None = None, name: str = "run") -> Outcome:
    """Trains as `train` does, and returns how the training ended."""
    return _run(config, run_dir, name, None)


def resume(run: Path, overrides: Sequence[str] = ()) -> Path:
    """Resumes a stopped run, and returns its folder; see `resume_training`."""
    return resume_training(run, overrides).folder


def resume_training(run: Path, overrides: Sequence[str] = ()) -> Outcome:
    """Resumes a stopped run from its own config and last checkpoint.

    overrides: config overrides, such as a larger budget; they are written to the run's config.yaml. All differences
    from the checkpoint's config are printed. Raises ConfigError for differences that change the model, the optimiser or
    the data set, and if another process trains in that folder.
    """
    checkpoint = Checkpoint(run)
    return _run(configs.load(run / "config.yaml", overrides), run, run.name, checkpoint)


def _run(config: Config, run_dir: Path | None, name: str, checkpoint: Checkpoint | None) -> Outcome:
    reconfigure(**CONSOLE)
    console = get_console()  # the console of the progress bar: lines are printed above it
    silence_lightning()
    configs.check_plugins(config)
    changed = changes(checkpoint.config, config) if checkpoint is not None and checkpoint.config is not None else {}
    lightning.seed_everything(config.seed, verbose=False)
    trainer = _trainer(config, console)
    data = build_data(config)
    data.check_splits()
    model = build_model(config, data.classes)
    data.multiple = model.multiple
    check_training(config, data, model)
    if checkpoint is not None:
        checkpoint.check_model(model)
    fits = load_pretrained(model) if checkpoint is None else []  # the checkpoint holds all weights
    evaluation = EvaluationCallback(build_evaluators(model, config, data))
    check_monitor(config.trainer.monitor, evaluation.evaluators)

    module = DenseModule(model, config, data)
    budget = module.budget(trainer.world_size)
    lr = learning_rate(config.optim, budget.images_per_step)
    every = config.trainer.checkpoint_every
    interval = seconds_of(every) if isinstance(every, str) else every
    files = RunFolder(evaluation, config.trainer.monitor, interval)
    peers = Peers()
    # The order matters: the average is updated and metrics are written before a checkpoint.
    ema = [] if config.trainer.ema is None else [ExponentialMovingAverage(config.trainer.ema)]
    callbacks = [
        BudgetCallback(module.budget),
        StepMetrics(),
        evaluation,
        files,
        ValidationLines(console, evaluation),
        peers,
    ]
    trainer.callbacks[:0] = [*ema, *callbacks]  # type: ignore[attr-defined]  # set by a connector
    folder = choose_together(trainer, lambda: files.open(name, run_dir, new=checkpoint is None))
    files.folder, trainer.loggers = folder, _loggers(folder)
    rates = parameter_rates(model, config.optim, lr)
    if trainer.world_size > 1:
        freeze_unused(model)
    with _translated_errors(folder), _removed_on_error(trainer, folder, new=checkpoint is None), closing(files):
        if checkpoint is not None:
            checkpoint.check_groups(parameter_groups(model, config.optim, lr))
        if trainer.is_global_zero:
            partial = folder / "config.yaml.partial"
            partial.write_text(configs.dump(config, _derived(config, model, data, trainer, budget)), encoding="utf-8")
            partial.replace(folder / "config.yaml")
            (folder / "checkpoints").mkdir(exist_ok=True)
            if checkpoint is not None:
                MetricsCsv(folder / "metrics.csv").remove_after(checkpoint.step)
            if changed:
                console.print("Differences from the checkpoint's config:")
                for key, change in changed.items():
                    console.print(f"  {key}: {change}", markup=False)
            for fit in fits:
                console.print(weights_table(fit), soft_wrap=False)
            if len({rate.lr for rate in rates}) > 1:
                console.print(rates_table(rates), soft_wrap=False)
            _announce(console, config, model, data, trainer, folder, budget)

        stopped_by = 0
        try:
            with watching(trainer, peers):
                trainer.fit(module, ckpt_path=None if checkpoint is None else checkpoint.path, weights_only=True)
        except Stopped:
            stopped_by = files.signals.received
        except KeyboardInterrupt:
            if trainer.is_global_zero:
                console.print(f"Stopped immediately.{_resume_hint(folder)}")
            raise
        if trainer.is_global_zero:
            if files.best is None:  # stopped before the first validation: the current weights
                model_file.save(model, folder / "model.safetensors", config)
                metrics_file.write({}, folder / "metrics.json")
            _finish(console, folder, data, bool(stopped_by))
            if stopped_by == getattr(signal, "SIGUSR1", -1):
                console.print(requeue())
    return Outcome(folder, stopped_by)


@contextmanager
def _translated_errors(folder: Path) -> Iterator[None]:
    """Raises TrainingError, with the command to resume, if a file cannot be written or another process has ended."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        reason = f"{error.filename or folder} cannot be written: {error.strerror}."
    except TrainingError as error:
        reason = str(error)
    except RuntimeError as error:
        failure = worker_failure(error)
        if failure is None:
            raise
        reason = str(failure)
    else:
        return
    raise TrainingError(reason + _resume_hint(folder))


@contextmanager
def _removed_on_error(trainer: lightning.Trainer, folder: Path, new: bool) -> Iterator[None]:
    """Removes the folder of a new run that fails before its first step."""
    try:
        yield
    except DensevitError:
        if new and trainer.global_step == 0 and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _resume_hint(folder: Path) -> str:
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return ""
    return f" Resume from the last checkpoint with: densevit train --resume {folder}"


def _trainer(config: Config, console: Console) -> lightning.Trainer:
    section = config.trainer
    return build_trainer(
        section,
        callbacks=[ProgressBar(console_kwargs=CONSOLE)] if console.is_terminal else [],
        max_epochs=-1,  # the budget ends the training
        check_val_every_n_epoch=None,
        gradient_clip_val=section.clip_grad_norm,
        accumulate_grad_batches=section.accumulate,
        log_every_n_steps=section.log_every,
        enable_progress_bar=console.is_terminal,
        num_sanity_val_steps=0,
        default_root_dir=os.devnull,  # where Lightning looks for its own checkpoints; nothing is written there
    )


def _loggers(folder: Path) -> list[Logger]:
    loggers: list[Logger] = [MetricsCsv(folder / "metrics.csv")]
    try:
        from densevit.training.tensorboard import TensorBoard

        loggers.append(TensorBoard(folder, name="", version=""))
    except ModuleNotFoundError:
        pass  # the extra `tensorboard` is not installed
    return loggers


def _derived(
    config: Config, model: DenseModel, data: Data, trainer: lightning.Trainer, budget: Budget
) -> dict[str, str]:
    """Derived values, written to config.yaml as comments."""
    images = budget.images_per_step
    values = {
        "training images": str(len(data.train)),
        "validation images": str(len(data.val)),
        "images per optimiser step": str(images),
        "optimiser steps": f"{budget.steps:,}, {budget.images / len(data.train):.2f} epochs",
        "learning rate": f"{learning_rate(config.optim, images):g}",
        "precision": str(trainer.precision),
        "feature channels and strides": f"{list(model.backbone.channels)} at {list(model.backbone.strides)}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
    }
    for name, classes in model.classes.items():
        values[f"classes of {name}"] = ", ".join(c.name for c in classes)
    return values


def _announce(
    console: Console,
    config: Config,
    model: DenseModel,
    data: Data,
    trainer: lightning.Trainer,
    folder: Path,
    budget: Budget,
) -> None:
    heads = ", ".join(f"{name} ({section.name})" for name, section in config.heads.items())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    device = trainer.strategy.root_device
    what = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )
    console.print(f"{config.backbone.name} -> {heads}, {trained / 1e6:.2f} M trained parameters")
    console.print(f"{config.data.name}: {len(data.train)} training images, {len(data.val)} validation images")
    console.print(budget.describe(len(data.train)))
    check_budget(budget, config)
    console.print(f"{trainer.world_size} x {what}, {trainer.precision}; writing to {folder}/")


def _finish(console: Console, folder: Path, data: Data, stopped: bool) -> None:
    """Writes the visualizations and the report, and prints the metrics and the files."""
    predictor = load(folder)
    draw_samples(
        lambda image: predictor.predict(image).heads,
        predictor.classes,
        data,
        folder / "predictions",
        types=predictor.target_types,
    )
    report = write_report(folder)
    metrics = metrics_file.read(folder / "metrics.json")
    if metrics:
        console.print(metrics_table(metrics), soft_wrap=False)
    console.print(
        f"model: {folder / 'model.safetensors'}   report: {report}   visualizations: {folder / 'predictions'}/"
    )
    if stopped:
        console.print(f"Stopped. Resume with: densevit train --resume {folder}")
