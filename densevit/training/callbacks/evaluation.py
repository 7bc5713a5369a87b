"""Evaluation of the predictions of a validation, each image once over all processes."""

import math
from collections.abc import Callable, Mapping

import pytorch_lightning as lightning
from torch import distributed

from densevit.interfaces import Batch, Evaluator, Predictions

Write = Callable[[str, int | str, Predictions], None]
"""Called with a head's name, an image id, and the head's predictions for that image."""


class EvaluationCallback(lightning.Callback):
    """Passes predictions and ground truth to the evaluators; `metrics` holds the results of the last validation.

    write: called with each image's predictions, in each process for its own images. Predictions are not stored.
    """

    def __init__(self, evaluators: dict[str, Evaluator], write: Write | None = None) -> None:
        self.evaluators, self.write = evaluators, write
        self.metrics: dict[str, float] = {}

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for evaluator in self.evaluators.values():
            evaluator.reset()

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: dict[str, list[Predictions]],  # type: ignore[override]  # the result of validation_step
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if "truth" not in batch["targets"][0]:  # a duplicate of an image that another process evaluates
            return
        truths = [target["truth"] for target in batch["targets"]]
        for name, evaluator in self.evaluators.items():
            evaluator.update(outputs[name], truths)
        if self.write is not None:
            for name, predictions in outputs.items():
                for target, prediction in zip(batch["targets"], predictions, strict=True):
                    self.write(name, target["image_id"], prediction)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for evaluator in self.evaluators.values():
            _join_processes(evaluator)
        self.metrics = flat_metrics({name: evaluator.compute() for name, evaluator in self.evaluators.items()})
        if trainer.is_global_zero:
            defined = {name: value for name, value in self.metrics.items() if not math.isnan(value)}
            for logger in trainer.loggers:  # Lightning's `log` rounds to float32
                logger.log_metrics({"epoch": trainer.current_epoch, **defined}, trainer.global_step)


def _join_processes(evaluator: Evaluator) -> None:
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        states: list[object] = [None] * distributed.get_world_size()
        distributed.all_gather_object(states, evaluator.state())
        evaluator.merge(states)


def flat_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Flattens {head: {metric: value}} to {"head/metric": value}."""
    return {f"{head}/{name}": value for head, values in metrics.items() for name, value in values.items()}
