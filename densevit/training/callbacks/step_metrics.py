"""Logs losses, learning rates, gradient norm, speed, memory and validation metrics."""

import math
import sys
import time
from os.path import commonpath
from typing import Any

import pytorch_lightning as lightning
import torch

from densevit.interfaces import LossContext
from densevit.training.loop.dense_module import DenseModule


class StepMetrics(lightning.Callback):
    """Logs every `log_every_n_steps`-th optimiser step: the loss and its terms, averaged over processes and accumulated
    batches, the learning rates, the gradient norm, and speed and memory as `system/*`. Logs the metrics after each
    validation.

    Synchronises the device at these steps only. Lightning itself would log after all callbacks, so a run killed after
    its checkpoint would lose that row.
    """

    _since = 0.0  # the start of the interval of the next row, later by the time of validations

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._start(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: DenseModule, *_: Any) -> None:  # type: ignore[override]
        record, every = pl_module.record, trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        self._images += len(record.image_ids) * trainer.world_size
        if record.number % every:
            return
        values = LossContext.across_processes().mean(torch.stack([record.loss, *record.terms.values()])).tolist()
        metrics = {f"train/{name}": value for name, value in zip(("loss", *record.terms), values, strict=True)}
        metrics |= {"train/lr": record.learning_rate, "epoch": trainer.current_epoch}
        metrics |= {f"train/lr/{name}": lr for name, lr in learning_rates(trainer.optimizers[0], pl_module).items()}
        metrics["train/gradient_norm"] = float(record.gradient_norm)
        metrics |= self._speed(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, record.number - 1)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._since -= time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: DenseModule) -> None:  # type: ignore[override]
        self._since += time.perf_counter()
        defined = {name: value for name, value in pl_module.validation.metrics.items() if not math.isnan(value)}
        for logger in trainer.loggers:  # by the number of completed steps; Lightning would use one less
            logger.log_metrics({"epoch": trainer.current_epoch, **defined}, trainer.global_step)

    def _start(self, trainer: lightning.Trainer) -> None:
        """Starts an interval."""
        self._images, self._since = 0, time.perf_counter()  # images: of all processes
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
        self._waited = getattr(trainer.train_dataloader, "seconds_waited", 0.0)

    def _speed(self, trainer: lightning.Trainer) -> dict[str, float]:
        """Ends the interval: images per second, the fraction of time spent waiting for data, and the peak GPU memory in
        the interval as `memory_gb`; on a CPU, the peak of the process since its start."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        waited = getattr(trainer.train_dataloader, "seconds_waited", 0.0) - self._waited
        values = {"images_per_second": self._images / seconds, "data_wait": min(1.0, waited / seconds)}
        memory = peak_memory(trainer.strategy.root_device)
        values |= {"memory_gb": memory / 1e9} if memory else {}
        self._start(trainer)
        return {f"system/{name}": value for name, value in values.items()}


def learning_rates(optimizer: torch.optim.Optimizer, module: torch.nn.Module) -> dict[str, float]:
    """The current learning rates by part of the model, such as `backbone`, if there are several rates.

    A part is the common prefix of the parameter names with one rate, at most two words; `model` if it is empty. Parts
    of equal names are numbered in the order of the optimiser's groups: `backbone.blocks`, `backbone.blocks-2`.
    """
    names = {id(p): name.removeprefix("model.") for name, p in module.named_parameters()}
    members: dict[float, list[str]] = {}
    rates: dict[float, float] = {}
    for group in optimizer.param_groups:
        initial = group.get("initial_lr", group["lr"])
        rates[initial] = group["lr"]
        members.setdefault(initial, []).extend(names.get(id(p), "") for p in group["params"])
    if len(rates) < 2:
        return {}
    paths = (commonpath([name.replace(".", "/") for name in group_names]) for group_names in members.values())
    parts = [".".join(path.split("/")[:2]) or "model" for path in paths]
    counts = [parts[: index + 1].count(part) for index, part in enumerate(parts)]
    return {f"{part}-{n}" if n > 1 else part: lr for part, n, lr in zip(parts, counts, rates.values(), strict=True)}


def peak_memory(device: torch.device) -> float:
    """The peak memory in bytes: of a GPU since the last row, else of this process; 0 if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
