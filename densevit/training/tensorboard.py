"""TensorBoard logger (extra `tensorboard`)."""

import math
from collections.abc import Mapping

from pytorch_lightning.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Writes `events.*`, without Lightning's `hparams.yaml`: `config.yaml` has more."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if not math.isnan(value)}, step)

    def save(self) -> None:
        self.experiment.flush()
