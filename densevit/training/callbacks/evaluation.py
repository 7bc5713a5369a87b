"""Evaluation during validation, each image once over all processes."""

import math
from collections.abc import Callable, Mapping

import pytorch_lightning as lightning
from torch import distributed

from densevit.interfaces import Batch, Evaluator, Predictions

Write = Callable[[str, int | str, Predictions], None]
"""Takes a head's name, an image's id, and what the head predicts for it."""


class EvaluationCallback(lightning.Callback):
    """Feeds each validation pass's predictions and truths to the evaluators; `metrics` holds what the last one gave.

    write: gets each image's predictions as they come, in each process those of its own images; none are kept.
    """

    def __init__(self, evaluators: dict[str, Evaluator], write: Write | None = None) -> None:
        self.evaluators, self.write = evaluators, write
        self.metrics: dict[str, float] = {}

    def on_validation_epoch_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        for evaluator in self.evaluators.values():
            evaluator.reset()

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        outputs: dict[str, list[Predictions]],  # type: ignore[override]  # what our validation_step returns
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if "truth" not in batch["targets"][0]:  # a repeat of an image that another process counts
            return
        truths = [target["truth"] for target in batch["targets"]]
        for name, evaluator in self.evaluators.items():
            evaluator.update(outputs[name], truths)
        if self.write is not None:
            for name, predictions in outputs.items():
                for target, found in zip(batch["targets"], predictions, strict=True):
                    self.write(name, target["image_id"], found)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        for evaluator in self.evaluators.values():
            _join_processes(evaluator)
        self.metrics = flat_metrics({name: evaluator.compute() for name, evaluator in self.evaluators.items()})
        if trainer.is_global_zero:
            known = {name: value for name, value in self.metrics.items() if not math.isnan(value)}
            for logger in trainer.loggers:  # not through Lightning's `log`, which rounds to float32
                logger.log_metrics({"epoch": trainer.current_epoch, **known}, trainer.global_step)


def _join_processes(evaluator: Evaluator) -> None:
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        states: list[object] = [None] * distributed.get_world_size()
        distributed.all_gather_object(states, evaluator.state())
        evaluator.merge(states)


def flat_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{head: {metric: value}} as {"head/metric": value}."""
    return {f"{head}/{name}": value for head, found in metrics.items() for name, value in found.items()}
