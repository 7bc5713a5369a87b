"""Training runs: starts or resumes a training and writes the run's folder."""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ProgressBar as LightningBar
from pytorch_lightning.loggers import Logger
from rich import get_console
from rich.console import Console

from densevit import config as configs
from densevit import registry
from densevit.allocator import keep_freed_memory
from densevit.atomic_io import replaced_file
from densevit.config import Config, DataSection
from densevit.config.training_schema import OPTIMISERS
from densevit.config.values import seconds_of
from densevit.data.build import build_data
from densevit.errors import ConfigError, counted
from densevit.evaluation import metrics_file, tables_file
from densevit.inference.creating import build_model
from densevit.inference.loading import load
from densevit.inference.predictor import Predictor
from densevit.model import DenseModel
from densevit.model.parameter_groups import parameter_groups, parameter_rates
from densevit.terminal import TEXT, use_text_console
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.training.callbacks.best_model import BestModel
from densevit.training.callbacks.checkpointing import Checkpointing, Stopped
from densevit.training.callbacks.ema import ExponentialMovingAverage
from densevit.training.callbacks.non_finite import NonFinite
from densevit.training.callbacks.progress import CONSOLE, LogFile, ProgressBar, ProgressLines
from densevit.training.callbacks.schedule import TrainingSchedule
from densevit.training.callbacks.slow_steps import SlowSteps
from densevit.training.callbacks.stall import StallReports
from densevit.training.callbacks.step_metrics import StepMetrics
from densevit.training.callbacks.stop_signals import StopSignals, requeue
from densevit.training.loop.budget import Budget
from densevit.training.loop.class_mapping import map_classes
from densevit.training.loop.data_module import DenseDataModule
from densevit.training.loop.dense_module import DenseModule
from densevit.training.loop.evaluators import build_evaluators
from densevit.training.loop.lightning_logging import silence_lightning
from densevit.training.loop.method import check_method
from densevit.training.loop.optim import learning_rate
from densevit.training.loop.peers import Peers, watching
from densevit.training.loop.precision import tf32
from densevit.training.loop.sharding import STRATEGY, check_sharding, whole_state
from densevit.training.loop.trainer import build_trainer
from densevit.training.loop.unused_parameters import freeze_unused
from densevit.training.run import evaluation
from densevit.training.run.checks import check_budget, check_monitor, check_needs, check_training
from densevit.training.run.errors import removed_on_error, resumable_errors, resume_hint, translated_errors
from densevit.training.run.extensions import build_callbacks, build_loggers, check_callbacks
from densevit.training.run.folder import RunFolder
from densevit.training.run.metrics_csv import MetricsCsv
from densevit.training.run.output import announce, derived_values, finish
from densevit.training.run.resuming import Checkpoint, changes, run_of, without_checkpoint
from densevit.training.run.start_hints import start_hints
from densevit.visualization.rates_table import rates_table
from densevit.visualization.weights_table import weights_table
from densevit.weights import model_file
from densevit.weights.pretrained import load_pretrained

_INPUT = {"data.image_size", "data.recipe", "data.short_side"}
_OTHER_INPUT = (
    "Epochs before and after are compared although their images differ in size. For a run of its own from these "
    "weights: densevit train CONFIG weights={}"
)
_EXTEND = "To train it for longer: densevit train --resume {} trainer.max_images=N, with a larger N."


@dataclass
class Run:
    """A finished or stopped training.

    path: its folder. stopped_by: the number of the signal that stopped it; 0 if it ran to its end.
    """

    path: Path
    stopped_by: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the best epoch; empty if the run was stopped before its first validation."""
        return metrics_file.read(self.path / "metrics.json")

    @property
    def tables(self) -> dict[str, list[list[str | int | float]]]:
        """The tables of the best epoch by NAME-HEAD, as in "errors-detection"; the first row is the header."""
        return {path.stem: tables_file.read_values(path) for path in sorted(self.path.glob("*-*.csv"))}

    @cached_property
    def model(self) -> Predictor:
        """The model of the best epoch, loaded when it is first used."""
        return load(self.path)


def fit(
    config: str | Path | Mapping[str, Any] | Config | None = None,
    overrides: Sequence[str] = (),
    *,
    callbacks: Sequence[lightning.Callback] = (),
    loggers: Sequence[Logger] = (),
    resume: str | Path | None = None,
    run_dir: str | Path | None = None,
    name: str | None = None,
    resume_with: str | None = None,
) -> Run:
    """Trains the model that a config describes, or resumes a run.

    The config, the data and the weights are checked before a folder is created. A resumed run continues with its own
    config and last checkpoint, or from its beginning if it was killed before its first checkpoint; all differences from
    the checkpoint's config are printed.

    config: a file, a shipped config's name, a mapping or a `Config`. overrides: as on the command line,
    "optim.lr=1e-4"; those of a resumed run are written to its config.yaml. callbacks, loggers: in addition to those of
    the config. resume: the folder of the run, or one of its checkpoints, in place of a config. run_dir: a new or empty
    folder; None: the next free runs/NAME. name: of that folder; None: the config file's. resume_with: the command that
    messages name to resume the run, of a program that calls `fit`; None: densevit train --resume FOLDER.

    Raises ConfigError, PluginError, DataError or WeightsError for wrong input, also for differences that change the
    model, the optimiser or the data set of a resumed run, and TrainingError if the training cannot continue.
    """
    if (config is None) == (resume is None):
        raise ConfigError("fit needs a config, or the folder of a run to resume, and not both.")
    with StopSignals() as signals:
        given = (callbacks, loggers, signals, resume_with)
        if resume is not None:
            if run_dir is not None:
                raise ConfigError(f"fit: resume={resume} uses that folder. Fix: remove run_dir.")
            folder = run_of(Path(resume))
            checkpoint = None if without_checkpoint(Path(resume)) else Checkpoint(Path(resume))
            return _run(configs.load(folder / "config.yaml", overrides), folder, folder.name, True, checkpoint, *given)
        if isinstance(config, str | Path):
            name, config = name or Path(config).stem, configs.load(config, overrides)
        elif isinstance(config, Mapping) or overrides:
            values = config.model_dump() if isinstance(config, Config) else config
            assert values is not None
            config = configs.from_mapping(values, "fit", overrides)
        assert isinstance(config, Config)
        return _run(config, None if run_dir is None else Path(run_dir), name or "run", False, None, *given)


def train(config: Config, run_dir: Path | None = None, name: str = "run") -> Path:
    """Trains the model that a config describes, and returns the run's folder; see `fit`."""
    return fit(config, run_dir=run_dir, name=name).path


def resume(run: Path, overrides: Sequence[str] = ()) -> Path:
    """Resumes a stopped run, and returns its folder; see `fit`."""
    return fit(None, overrides, resume=run).path


def evaluate(
    model: DenseModel | Predictor | Run | str | Path,
    data: Config | DataSection | Mapping[str, Any] | str | Path | None = None,
    classes: Mapping[str, str | None] | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, float]:
    """Evaluates a model on one device, those of `overrides`, or in the processes of torchrun.

    Returns the metrics, named HEAD/METRIC. On the same devices they are those of `densevit evaluate` and of the end of
    a training.

    model: a model, a run, a run's folder or a model file, or a predictor, whose inference options and replaced resizing
    hold. data: the config section `data`, as a mapping, a section file
    or a `DataSection`, or a config with it; its split `data.split` is evaluated. None: the data that the model was
    trained with. classes: from names of the model's classes to those of the data, or to None, in addition to equal
    names; only mapped classes are evaluated (docs/evaluate.md). overrides: of the model's config, as those of
    `densevit evaluate`: "heads.depth.evaluation.align=median". Raises DataError if no class is mapped, and ConfigError
    for overrides that change the model.
    """
    model = model.model if isinstance(model, Run) else model
    model = load(model) if isinstance(model, str | Path) else model
    predictor = Predictor(model) if isinstance(model, DenseModel) else model
    model, config = predictor.model, predictor.config
    if overrides:
        evaluation.check_overrides(overrides)
        if config is None:
            raise ConfigError(f"evaluate: the model has no config for the overrides {', '.join(overrides)}.")
        config = configs.from_mapping(config.model_dump(), "evaluate", overrides)
        configs.check_evaluation_plugins(config)
        resize = predictor.resize if predictor.resize_is_replaced else None
        predictor = Predictor(model, config, resize=resize)
    if data is None:
        data = predictor.data if config is None else config
    if data is None:
        raise ConfigError("evaluate: the model has no config, and so no data. Fix: give data={'name': ..., ...}.")
    source = DenseDataModule(data).data
    source.multiple = model.multiple
    source.val.check_labels()
    mappings = map_classes(model, source, classes)
    if config is not None:
        given = {override.partition("=")[0].strip() for override in overrides}
        update = {key: value for key, value in evaluation.processes().items() if f"trainer.{key}" not in given}
        config = config.model_copy(update={"trainer": config.trainer.model_copy(update=update)})
    device, was_training = model.mean.device, model.training
    try:
        metrics, _ = evaluation.evaluate(predictor, source, config, mappings=mappings)
    finally:
        model.to(device).train(was_training)  # Lightning moves it to the CPU
    return metrics


def _run(
    config: Config,
    run_dir: Path | None,
    name: str,
    resumed: bool,
    checkpoint: Checkpoint | None,
    given_callbacks: Sequence[lightning.Callback],
    given_loggers: Sequence[Logger],
    signals: StopSignals,
    resume_with: str | None,
) -> Run:
    keep_freed_memory()
    quiet, stderr = get_console().quiet, get_console().stderr
    # the console of the progress bar: lines are printed above it
    console = use_text_console(**CONSOLE, quiet=quiet, stderr=stderr, file=LogFile(stderr))
    silence_lightning()
    configs.check_plugins(config)
    check_sharding(config)
    if checkpoint is not None:
        checkpoint.check_strategy(config.trainer.strategy)
        checkpoint.check_files()
    changed = changes(checkpoint.config, config) if checkpoint is not None and checkpoint.config is not None else {}
    callbacks = build_callbacks(config.trainer, given_callbacks)
    lightning.seed_everything(config.seed, verbose=False)
    trainer = _trainer(config, console, callbacks)
    data = build_data(config)
    labels = registry.load("methods", config.method.name).needs_labels
    data.check_splits(labels or bool(config.heads))
    if labels:
        check_needs(config, data)
    model = build_model(config, data.train, pretrained=checkpoint is None)
    data.multiple = model.multiple
    check_training(config, data, model, labels)
    fits = load_pretrained(model, config) if checkpoint is None else []  # the checkpoint holds all weights
    method = registry.create("methods", config.method.name, model, options=config.method.options, where="method")
    check_method(method)
    data.use(method)
    parameter_groups(model, config.optim, 1.0, method)  # raises if all are frozen or a pattern matches none
    if checkpoint is not None:
        checkpoint.check_model(model, method)
    evaluators = build_evaluators(model, config, data.val, method)
    metrics = check_monitor(config.trainer.monitor, evaluators, config.trainer.patience)
    check_callbacks(callbacks, metrics)
    if config.trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.trainer.compile:
        model.compile()

    def budget_of(world_size: int) -> Budget:
        return Budget.of(config.trainer, data.batches_an_epoch(world_size), config.data.batch_size, world_size)

    budget = budget_of(trainer.world_size)
    lr = learning_rate(config.optim, budget.images_per_step)
    every = config.trainer.checkpoint_every
    interval = seconds_of(every) if isinstance(every, str) else every
    best = BestModel(BestEpoch(evaluators, config.trainer.monitor), data.val, config.trainer.patience)
    files, peers = Checkpointing(interval, config.trainer.keep_checkpoints, signals), Peers()
    ema = [] if config.trainer.ema is None else [ExponentialMovingAverage(config.trainer.ema)]
    stall_after = config.trainer.stall_after
    stalls = [] if stall_after is None else [StallReports(seconds_of(stall_after))]
    # The order matters: the average is updated and metrics are written before a checkpoint.
    non_finite = NonFinite(skip=config.trainer.non_finite == "skip")
    measured = [TrainingSchedule(budget_of), SlowSteps(), StepMetrics(non_finite), ProgressLines(console)]
    own = [non_finite, best, *ema, *measured, peers]
    trainer.callbacks = [*own, *trainer.callbacks, *callbacks, *stalls, files]  # type: ignore[attr-defined]  # set by a connector
    rates = parameter_rates(model, config.optim, lr, method)
    groups = parameter_groups(model, config.optim, lr, method)
    begun_by_several = checkpoint is not None and not checkpoint.has_groups(groups)
    if trainer.world_size > 1 or begun_by_several or config.trainer.strategy == STRATEGY:
        freeze_unused(model, method)
    opened = RunFolder.open(trainer, name, run_dir, resumed)
    folder = opened.path
    files.folder = best.folder = non_finite.folder = folder
    errors = translated_errors(folder, config, non_finite.batch, resume_with)
    with removed_on_error(trainer, folder, not resumed), errors, closing(opened):
        if checkpoint is not None:
            if begun_by_several:
                groups = parameter_groups(model, config.optim, lr, method)
            checkpoint.check_groups(groups)
            if config.optim.name in OPTIMISERS:
                checkpoint.check_optimizer(groups, model, method)
        trainer.loggers = build_loggers(config.trainer, folder, given_loggers)
        if trainer.is_global_zero:
            derived = derived_values(config, model, method, data, trainer, budget)
            with replaced_file(folder / "config.yaml") as temporary:
                temporary.write_text(configs.dump(config, derived), encoding="utf-8")
            (folder / "checkpoints").mkdir(exist_ok=True)
            if resumed:
                MetricsCsv(folder / "metrics.csv").remove_after(0 if checkpoint is None else checkpoint.step)
            if changed:
                console.print("Differences from the checkpoint's config:")
                for key, change in changed.items():
                    console.print(f"  {key}: {change}")
                if changed.keys() & _INPUT:
                    console.print(_OTHER_INPUT.format(folder))
            for fit in fits:
                console.print(weights_table(fit), soft_wrap=False)
            if len({rate.lr for rate in rates}) > 1:
                console.print(rates_table(rates), soft_wrap=False)
            announce(console, config, model, method, data, trainer, folder, budget)
            if checkpoint is None:
                for line in start_hints(config, data, model.backbone.input_size):
                    console.print(line)
                check_budget(budget, config)
            if resumed and checkpoint is None:
                console.print(f"{folder} has no checkpoint yet: its training begins anew.")
            if checkpoint is not None and checkpoint.step >= budget.steps:
                console.print(f"{folder} has trained all of its {budget.steps:,} steps. {_EXTEND.format(folder)}")
        for logger in trainer.loggers:
            logger.log_hyperparams(config.model_dump())

        stopped_by = 0
        module = DenseModule(Predictor(model, config), config.optim, evaluators, method=method)
        module.checkpoint_groups = groups
        signals.install()
        try:
            with resumable_errors(folder, resume_with), watching(trainer, peers), tf32(config.trainer.tf32):
                path = None if checkpoint is None else checkpoint.path
                trainer.fit(module, datamodule=DenseDataModule(data), ckpt_path=path, weights_only=True)
        except Stopped:
            stopped_by = signals.received
        except KeyboardInterrupt:
            if trainer.is_global_zero:
                console.print(f"Stopped immediately.{resume_hint(folder, resume_with)}")
            raise
        signals.install()  # again: Lightning has restored those before it
        signals.begun = True  # also of a resumed run that has trained all of its steps
        if stopped_by == getattr(signal, "SIGUSR1", -1) and trainer.is_global_zero:
            console.print(requeue())  # the checkpoint is written; what follows may fail or be cut short
        unfinished = best.best_epoch.best is None  # stopped before the first validation: the current weights
        state = whole_state(model) if unfinished else {}
        if trainer.is_global_zero:
            if unfinished:
                model_file.save(model, folder / "model.safetensors", config, state)
                metrics_file.write({}, folder / "metrics.json")
            if not stopped_by and trainer.global_step < budget.steps:
                cause = "A callback"
                if best.exhausted:
                    monitored = " and ".join(best.best_epoch.monitored)
                    cause = f"{counted(best.best_epoch.stale, 'validation')} without a better {monitored}"
                    cause += " (trainer.patience)"
                console.print(f"{cause} ended the training at step {trainer.global_step:,} of {budget.steps:,}.")
            if best.best_epoch.stale:
                later = counted(best.best_epoch.stale, "later validation")
                console.print(f"The model and the metrics are those of the best epoch; {later} had no better ones.")
            finish(console, folder, config, data, bool(stopped_by), module.indices, signals, resume_with)
    return Run(folder, stopped_by)


def _trainer(config: Config, console: Console, callbacks: Sequence[lightning.Callback]) -> lightning.Trainer:
    section = config.trainer
    own_bar = (
        console.is_terminal
        and not console.quiet
        and not any(isinstance(callback, LightningBar) for callback in callbacks)
    )
    return build_trainer(
        section,
        callbacks=[ProgressBar(console_kwargs=CONSOLE | TEXT)] if own_bar else [],
        max_epochs=-1,  # the budget ends the training
        check_val_every_n_epoch=None,
        gradient_clip_val=section.clip_grad_norm,
        accumulate_grad_batches=section.accumulate,
        log_every_n_steps=section.log_every,
        enable_progress_bar=own_bar,
        num_sanity_val_steps=0,
        default_root_dir=os.devnull,  # where Lightning looks for its own checkpoints; nothing is written there
    )
