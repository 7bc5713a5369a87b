"""Trainings of a benchmark: a fixed number of images, and one rule for the learning rate."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning

from densevit.benchmarking.cases import Case, main_metrics
from densevit.benchmarking.results import CaseResult, finite
from densevit.errors import DensevitError
from densevit.training.run import Run, fit

TRIAL_SHARE = 8  # a trial of a learning rate sees this part of the images


def train_case(
    case: Case, result: CaseResult, folder: Path, images: int | None, rates: Sequence[float], save: Callable[[], None]
) -> None:
    """Trains a model and stores its metrics in `result.training`; what is finished is not repeated.

    images: the budget; None: that of the config. rates: with several learning rates, each is first tried on an eighth
    of the images, and the one with the lowest mean training loss over the second half of its trial is used. With none
    the config's is used. save: called after each step.
    """
    config = case.config()
    budget = images or config.trainer.max_images
    training: dict[str, Any] = result.training
    if training.get("asked") != [budget, *rates]:
        training.clear()
        training["asked"] = [budget, *rates]
        shutil.rmtree(folder, ignore_errors=True)
    if "metrics" in training:
        return
    losses: dict[str, float] = training.setdefault("trials", {})
    for rate in rates if len(rates) > 1 else ():
        if f"{rate:g}" not in losses:
            losses[f"{rate:g}"] = _trial_loss(case, folder / f"lr-{rate:g}", budget, rate)
            save()
    optim = {}
    if rates:
        optim = {"lr": min(rates, key=lambda rate: losses[f"{rate:g}"]) if losses else rates[0]}
    trainer = {"max_images": images} if images else {}
    config = case.config(optim=optim, trainer=trainer)
    start = time.perf_counter()
    run = _trained(config, folder / "run")
    training |= {
        "images": budget,
        "lr": config.optim.lr,
        "seconds": time.perf_counter() - start,
        "metrics": finite(run.metrics),
        "main": main_metrics(config),
    }
    save()


def _trained(config: Any, folder: Path) -> Run:
    """The run in this folder, which is resumed if it was interrupted. Raises KeyboardInterrupt if it is stopped."""
    if (folder / "checkpoints" / "last.ckpt").is_file():
        try:
            run = fit(resume=folder)
        except DensevitError:  # finished, or its checkpoint is not complete
            shutil.rmtree(folder)
            run = fit(config, run_dir=folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        run = fit(config, run_dir=folder)
    if run.stopped_by:
        raise KeyboardInterrupt
    return run


def _trial_loss(case: Case, folder: Path, budget: int | None, rate: float) -> float:
    """The mean training loss over the second half of a short training, which is not evaluated."""
    config = case.config(optim={"lr": rate}, trainer={"max_images": _trial_images(budget), "loggers": []})
    shutil.rmtree(folder, ignore_errors=True)
    trial = _Trial()
    try:
        run = fit(config, run_dir=folder, callbacks=[trial])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if run.stopped_by:
        raise KeyboardInterrupt
    half = trial.losses[len(trial.losses) // 2 :]
    mean = sum(half) / len(half)
    return mean if mean == mean else float("inf")


def _trial_images(budget: int | None) -> int:
    if budget is None:
        raise DensevitError("benchmark: several learning rates need a budget of images. Fix: give images.")
    return max(1, budget // TRIAL_SHARE)


class _Trial(lightning.Callback):
    """Collects the losses of a training and switches validation off."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        trainer.limit_val_batches = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
