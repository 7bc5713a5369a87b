"""`fit`: a run from config to report."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as lightning
from pytorch_lightning.loggers import Logger
from rich import get_console
from torch import nn

from densevit import config as configs
from densevit.config import Config, Overrides
from densevit.config.values import seconds_of
from densevit.errors import resume_hint
from densevit.evaluation import metrics_file, tables_file
from densevit.inference.model_loading import load
from densevit.interfaces import Dataset
from densevit.model import DenseModel, unwrapped
from densevit.paths import user_path
from densevit.reporting.html_page import fragment
from densevit.reporting.run_report import overview
from densevit.terminal import show
from densevit.training.callbacks.best_model import BestModel
from densevit.training.callbacks.checkpoint_writer import CheckpointWriter, Stopped, StopSignals
from densevit.training.callbacks.core_waits import CoreWaits
from densevit.training.callbacks.stall_report import StallReport
from densevit.training.callbacks.step_metrics import StepMetrics
from densevit.training.callbacks.training_progress import ProgressLines
from densevit.training.callbacks.validation_interval import ValidationInterval
from densevit.training.loop.data_module import DenseDataModule
from densevit.training.loop.dense_module import DenseModule
from densevit.training.loop.ema import ExponentialMovingAverage
from densevit.training.loop.feature_cache import cached_features
from densevit.training.loop.finite_check import detect_anomaly
from densevit.training.run.callbacks_and_loggers import build_loggers
from densevit.training.run.folder import RunFolder
from densevit.training.run.inputs import TrainingInputs, read_inputs
from densevit.training.run.plan import Plan
from densevit.training.run.process_state import training_state
from densevit.training.run.resumable_errors import removed_on_error, resumable_errors, resume_command
from densevit.training.run.run_output import FINISHED, STOPPED, finish, show_complete, start
from densevit.weights import model_file


@dataclass
class Run:
    """A finished or stopped run.

    path: the run folder. passed: the model that `fit` got, or built of instances; `model` is then this object.

    Example:
        >>> from pathlib import Path
        >>> run = densevit.Run(Path("runs/setr_vit"))
        >>> "segmentation/mIoU" in run.metrics, [*run.model.heads]
        (True, ['segmentation'])
    """

    path: Path
    passed: DenseModel | None = field(default=None, repr=False)

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C or another signal stopped training before its end, so that the run can be resumed."""
        return (self.path / STOPPED).exists()

    def __post_init__(self) -> None:
        self.path = user_path(self.path)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the best epoch; empty if the run stopped before its first validation."""
        return metrics_file.read(self.path / "metrics.json")

    @property
    def tables(self) -> dict[str, list[list[str | int | float]]]:
        """The tables of the best epoch by NAME-HEAD, as in "errors-detection"; the first row is the header."""
        return {path.stem: tables_file.read_values(path) for path in sorted(self.path.glob("*-*.csv"))}

    @cached_property
    def model(self) -> DenseModel:
        """The model of the best epoch, loaded on first access."""
        return cast(DenseModel, load(self.path, model=self.passed))

    def _repr_html_(self) -> str:
        """The metrics and curves as HTML, which Jupyter displays at the end of a cell."""
        return fragment(overview(self.path))


def fit(
    config: str | Path | Mapping[str, Any] | Config | DenseModel | None = None,
    overrides: Overrides = (),
    *,
    train: Dataset | None = None,
    val: Dataset | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    loggers: Sequence[Logger] = (),
    resume: str | Path | None = None,
    run_dir: str | Path | None = None,
    name: str | None = None,
    **keys: Any,
) -> Run:
    """Trains a model, or the model that a config describes, or resumes a run.

    Checks the config, the data and the weights before creating a folder. A resumed run continues with the config in its
    folder from its last checkpoint, or from the beginning if it was killed before its first checkpoint; prints
    differences from the checkpoint's config. From an earlier checkpoint it continues in a new folder.

    config: a file, a shipped config's name, a mapping or a `Config`, in which objects may stand for names; or a
    `DenseModel`, which is trained itself. overrides: changed keys, as on the command line, "optim.lr=1e-4", or
    {"optim.lr": 1e-4}; a resumed run writes them to its config.yaml. keys: further ones of `trainer`, `optim` and
    `data`, such as max_images=4000. train, val: data sets in place of the config's or the resumed run's. callbacks,
    loggers: Lightning's, in addition to the config's. resume: the folder of a run, or one of its checkpoints, instead
    of a config. run_dir: a new or empty folder; None: the next free runs/NAME, or the folder of the resumed run. name:
    NAME; None: the config file's name.

    Raises ConfigError, PluginError, DataError or WeightsError for invalid input, including differences that change the
    model, the optimiser or the data set of a resumed run, and TrainingError if training cannot continue. After Ctrl-C
    or another signal that stops training, writes all files and raises KeyboardInterrupt, or else SystemExit.

    Example:
        >>> run = densevit.fit("setr_vit", overrides=["trainer.max_images=2000"], run_dir="runs/first")
        vit -> segmentation (setr), ...
        >>> run.path.name, "segmentation/mIoU" in run.metrics
        ('first', True)
    """
    model = unwrapped(config, "fit", trains=True) if isinstance(config, nn.Module) else None
    if model is not None:
        configs.check_evaluation_overrides([key for key in (*overrides, *keys) if not key.startswith("optim")])
    source: Any = config if model is None else model_file.sections_of(model).model_dump()
    if model is not None and model.training_record.image_size is not None:
        source["data"]["image_size"] = None  # measured again
    changes: Any = [
        *(overrides.items() if isinstance(overrides, Mapping) else overrides),
        *((key, data) for key, data in (("data.train", train), ("data.val", val)) if data is not None),
        *((configs.full_key(key), value) for key, value in keys.items()),
    ]
    inputs = replace(read_inputs(source, changes, resume, run_dir, name), model=model)
    run, stopped_by = fit_on(inputs, callbacks, loggers)
    if stopped_by:
        raise KeyboardInterrupt if stopped_by == signal.SIGINT else SystemExit(128 + stopped_by)
    return run


def fit_on(
    inputs: TrainingInputs, callbacks: Sequence[lightning.Callback] = (), loggers: Sequence[Logger] = ()
) -> tuple[Run, int]:
    """`fit` on inputs that are already read. Returns the run and the number of the signal that stopped it; 0: none."""
    run, stopped_by, lines = train(inputs, callbacks, loggers)
    for line in lines:
        show(line, get_console())
    return run, stopped_by


def train(
    inputs: TrainingInputs, callbacks: Sequence[lightning.Callback] = (), loggers: Sequence[Logger] = ()
) -> tuple[Run, int, list[str]]:
    """`fit_on` for a program with its own commands: also returns the lines with the next ones, instead of printing
    them. Its errors have the command to resume, `DensevitError.resume`."""
    with training_state(inputs.config.trainer.tf32):
        return _run(Plan.of(inputs, callbacks), inputs, loggers)


def _run(plan: Plan, inputs: TrainingInputs, loggers: Sequence[Logger]) -> tuple[Run, int, list[str]]:
    """Trains and writes the run folder. Returns the result of `train`."""
    config, section, path = plan.config, plan.config.trainer, inputs.folder
    if plan.is_complete and path is not None and all((path / name).is_file() for name in FINISHED):
        show_complete(plan, path)
        return Run(path, plan.passed), 0, []
    folder = RunFolder.open(plan.trainer, inputs.name, path, resumed=inputs.resumed)
    plan = plan.starting_from(folder.path / "start.safetensors") if plan.has_weights else plan
    best, signals = BestModel(folder.path, plan.best_epoch(), plan.data.val, section.patience), StopSignals()
    errors = resumable_errors(folder.path, config)
    with removed_on_error(plan.trainer, folder.path, folder.new), errors, closing(folder):
        plan.trainer.callbacks = run_callbacks(plan, folder.path, best, signals)  # type: ignore[attr-defined]
        plan.trainer.loggers = build_loggers(section, folder.path, loggers)
        start(plan, folder, inputs.run)
        plan.data.use_split("train", plan.method.training_data(plan.data.train, folder.path))
        ema = None if section.ema is None else ExponentialMovingAverage(section.ema, section.ema_warmup)
        parts = (plan.model, plan.config.optim, plan.evaluators, plan.method)
        module = DenseModule(*parts, budget=plan.budget, rates=plan.rates, ema=ema)
        if section.detect_anomaly:
            detect_anomaly(module)
        stopped_by = _train(plan, module, folder.path, signals)
        lines = finish(plan, folder.path, best, module.validation.indices, bool(stopped_by))
    return Run(folder.path, plan.passed), stopped_by, lines


def run_callbacks(plan: Plan, folder: Path, best: BestModel, signals: StopSignals) -> list[lightning.Callback]:
    """The callbacks of a run, in the order in which Lightning calls them.

    best, signals: also used after training.
    """
    section, budget = plan.config.trainer, plan.budget
    every = section.checkpoint_every
    interval = seconds_of(every) if isinstance(every, str) else every
    return [
        # reports a step that does not finish; first, to include the time of other callbacks
        StallReport(None if section.stall_after is None else seconds_of(section.stall_after)),
        # saves the best model after a validation; before CheckpointWriter, whose checkpoints contain the best epoch
        best,
        # ends training and starts validations; before CheckpointWriter, which reads whether training ends
        ValidationInterval(budget),
        # logs losses and metrics; before the checkpoint of the step
        StepMetrics(),
        # prints speed, loss and metrics; reads the logged losses
        ProgressLines(get_console()),
        # advises on other programs on the same cores
        CoreWaits(get_console(), folder),
        # the progress bar of a terminal or notebook
        *plan.trainer.callbacks,  # type: ignore[attr-defined]  # set by a connector
        # of the method, the config and the caller; before the checkpoint, which contains their states
        *plan.method.callbacks(),
        *plan.callbacks,
        # writes checkpoints and stops at signals; last, so that checkpoints contain all other states
        CheckpointWriter(folder, budget, interval, section.keep_checkpoints, signals),
    ]


def _train(plan: Plan, module: DenseModule, folder: Path, signals: StopSignals) -> int:
    """Runs Lightning's training loop. Returns the number of the signal that stopped it; 0: none."""
    data = DenseDataModule(plan.data, batches_per_step=plan.config.trainer.accumulate)
    images = len(plan.data.train) + len(plan.data.val)
    try:
        with signals, cached_features(plan.model, plan.config.backbone.cache, images):
            path = None if plan.checkpoint is None else plan.checkpoint.path
            plan.trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    except Stopped:
        return signals.received
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):  # Lightning converts it
            raise
        if plan.trainer.is_global_zero:
            (folder / STOPPED).touch()
            show(f"Stopped immediately.{resume_hint(resume_command(folder))}", get_console())
        raise KeyboardInterrupt from None
    return 0
