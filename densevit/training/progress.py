"""What a person sees while it trains."""

import time
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console

from densevit.training.evaluation import Evaluation

CONSOLE = {"highlight": False, "soft_wrap": True}  # a path stays in one piece


class ProgressBar(RichProgressBar):
    """Lightning's bar, with the loss and nothing that tells nobody anything."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name.rpartition("/")[2]: value for name, value in metrics.items() if name != "v_num"}


class ValidationLines(lightning.Callback):
    """Prints a line a validation: where training stands, the loss, and the main metrics."""

    def __init__(self, console: Console, evaluation: Evaluation) -> None:
        self.console, self.evaluation = console, evaluation
        self.start = 0.0
        self.images = 0

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        self.start, self.images = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch["images"]) * trainer.world_size

    def on_validation_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        parts = [f"epoch {trainer.current_epoch + 1}", f"step {trainer.global_step}"]
        if trainer.state.fn == "fit":
            loss = trainer.callback_metrics.get("train/loss")
            if loss is not None:
                parts.append(f"loss {float(loss):.3f}")
            parts.append(f"{self.images / (time.monotonic() - self.start):.0f} images/s")
        for name, evaluator in self.evaluation.evaluators.items():
            parts.append(f"{name}/{evaluator.main} {self.evaluation.metrics[f'{name}/{evaluator.main}']:.3f}")
        self.console.print("  ".join(parts))
