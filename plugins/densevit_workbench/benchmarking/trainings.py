"""Trains the models of a benchmark: a fixed number of images, and one rule for the learning rate."""

import shutil
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning

from densevit.config import Config
from densevit.errors import DensevitError, resume_hint
from densevit.evaluation.metric_order import error_metrics
from densevit.evaluation.metrics_file import finite
from densevit.training.loop.data_module import DenseDataModule
from densevit.training.loop.dense_module import DenseModule
from densevit.training.loop.optim import learning_rate
from densevit.training.run.fit import Run, train
from densevit.training.run.inputs import read_inputs
from densevit_workbench.benchmarking.benchmark_results import CaseResult
from densevit_workbench.benchmarking.cases import Case
from densevit_workbench.benchmarking.digest import parts_of
from densevit_workbench.benchmarking.timing import device_name

AGAIN = "the same command as before"  # how a user resumes an interrupted run
TRIAL_SHARE = 8  # a trial of a learning rate sees one eighth of the images


def train_case(
    case: Case,
    result: CaseResult,
    folder: Path,
    images: int | None,
    rates: Sequence[float],
    seeds: Sequence[int],
    save: Callable[[], None],
) -> None:
    """Trains a model with each seed and stores its metrics in `result.training`; skips finished runs.

    images: the budget; None: the config's. rates: learning rates. Several rates are first tried on an eighth of the
    images, with the config's seed; the rate with the lowest mean training loss over the second half of its trial wins.
    Empty: the config's rate. seeds: one run each; empty: the config's seed. save: stores the results.
    """
    config = case.config()
    budget = images or config.trainer.max_images
    training: dict[str, Any] = result.training
    runs: dict[str, Any] = training.setdefault("runs", {})
    seeds = [*seeds] or [config.seed]
    if any(str(seed) not in runs for seed in seeds):
        training["lr"] = _rate(case, training, folder, budget, rates, save)
    for seed in seeds:
        if str(seed) in runs:
            continue
        optim = {"lr": training["lr"]} if rates else {}
        trainer = {"max_images": images} if images else {}
        facts, start = _Facts(rates), time.perf_counter()
        name = "run" if seed == config.seed else f"run-seed-{seed}"
        run = _trained(case.config(seed, optim=optim, trainer=trainer), folder / name, facts)
        runs[str(seed)] = {
            "seconds": time.perf_counter() - start,
            "metrics": finite(run.metrics),
        }
        training |= facts.values
        save()
    training |= {"seeds": seeds, **_summary([runs[str(seed)] for seed in seeds])}
    save()


def _rate(
    case: Case,
    training: dict[str, Any],
    folder: Path,
    budget: int | None,
    rates: Sequence[float],
    save: Callable[[], None],
) -> float | None:
    """Picks a learning rate (`train_case`); None: the config's. Stores the losses of trials in `training`."""
    losses: dict[str, float] = training.setdefault("trials", {})
    for rate in rates if len(rates) > 1 else ():
        if f"{rate:g}" not in losses:
            losses[f"{rate:g}"] = _trial_loss(case, folder / f"lr-{rate:g}", budget, rate)
            save()
    if losses:
        return min(rates, key=lambda rate: losses[f"{rate:g}"])
    return rates[0] if rates else None


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and sample standard deviations of metrics; None where a run lacks the metric. No deviations for one run."""
    by_metric = {name: [run["metrics"].get(name) for run in runs] for name in runs[0]["metrics"]}
    complete = {name: values for name, values in by_metric.items() if None not in values}
    means = dict.fromkeys(by_metric) | {name: statistics.fmean(values) for name, values in complete.items()}
    deviations = {name: statistics.stdev(values) for name, values in complete.items()} if len(runs) > 1 else {}
    seconds = sum(run["seconds"] for run in runs)
    return {"seconds": seconds, "metrics": means, "deviations": deviations}


def fit(
    config: Config | None = None,
    run_dir: Path | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    resume: Path | None = None,
) -> Run:
    """`densevit.fit`, with the benchmark's command to resume, and without further commands at the end."""
    try:
        run, stopped_by, _ = train(read_inputs(config, (), resume, run_dir), callbacks)
    except DensevitError as error:
        error.resume = error.resume and AGAIN
        raise
    if stopped_by:
        print(f"Stopped.{resume_hint(AGAIN)}")
        raise KeyboardInterrupt if stopped_by == signal.SIGINT else SystemExit(128 + stopped_by)
    return run


def _trained(config: Config, folder: Path, facts: "_Facts") -> Run:
    """Trains in a folder, or resumes its interrupted run."""
    if (folder / "checkpoints" / "last.ckpt").is_file():
        try:
            return fit(resume=folder, callbacks=[facts])
        except DensevitError:  # finished, or its checkpoint is not complete
            pass
    shutil.rmtree(folder, ignore_errors=True)
    return fit(config, run_dir=folder, callbacks=[facts])


def _trial_loss(case: Case, folder: Path, budget: int | None, rate: float) -> float:
    """The mean training loss over the second half of a short run without validation."""
    config = case.config(optim={"lr": rate}, trainer={"max_images": _trial_images(budget), "loggers": []})
    shutil.rmtree(folder, ignore_errors=True)
    trial = _Trial()
    try:
        fit(config, run_dir=folder, callbacks=[trial])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    half = trial.losses[len(trial.losses) // 2 :]
    mean = sum(half) / len(half)
    return mean if mean == mean else float("inf")


def _trial_images(budget: int | None) -> int:
    if budget is None:
        raise DensevitError("benchmark: several learning rates need a budget of images. Fix: give images.")
    return max(1, budget // TRIAL_SHARE)


class _Facts(lightning.Callback):
    """Collects facts about a run for the tables. rates: the learning rates to choose from."""

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = rates if len(rates) > 1 else ()
        self.values: dict[str, Any] = {}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        module = getattr(trainer, "datamodule", None)  # Lightning sets it in `fit`
        assert isinstance(module, DenseDataModule)
        assert isinstance(pl_module, DenseModule) and pl_module.budget is not None
        model, data, evaluators = pl_module.model, module.data, pl_module.validation.evaluators or {}
        assert pl_module.config is not None
        self.values = {
            "images": pl_module.budget.images,
            "lr": learning_rate(pl_module.optim, pl_module.budget.images_per_step),
            "adapted_stem": bool(model.sections.backbone.adapted_stem),
            "train_images": len(data.train),
            "val_images": len(data.val),
            "digest": parts_of(pl_module.config, data, model, evaluators, self.rates),
            "device": device_name(trainer.strategy.root_device),
            "precision": str(trainer.precision),
            "main": [f"{name}/{evaluator.main}" for name, evaluator in evaluators.items()],
            "lower_is_better": error_metrics(evaluators),
        }


class _Trial(lightning.Callback):
    """For a trial of a learning rate: collects training losses and switches validation off."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        trainer.limit_val_batches = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
