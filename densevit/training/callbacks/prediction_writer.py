"""Writes the predictions of a validation."""

from collections.abc import Callable

import pytorch_lightning as lightning

from densevit.interfaces import Batch, Predictions

Write = Callable[[str, int | str, Predictions], None]
"""A function of a head's name, an image id, and the head's predictions for the image."""


class PredictionWriter(lightning.Callback):
    """Calls `write` with the predictions of each image, in the process that predicts the image. Stores nothing."""

    def __init__(self, write: Write) -> None:
        self.write = write

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: dict[str, list[Predictions]],  # type: ignore[override]  # the result of validation_step
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for name, predictions in outputs.items():
            for target, prediction in zip(batch["targets"], predictions, strict=True):
                if "truth" in target:  # False for an image repeated from another process
                    self.write(name, target["image_id"], prediction)
