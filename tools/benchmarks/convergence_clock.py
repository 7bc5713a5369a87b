"""Measures the throughput of a training, for `convergence.py`."""

import json
import time
from pathlib import Path

import pytorch_lightning as lightning


class Clock(lightning.Callback):
    """Times complete training steps, with the wait for the loader and without validation.

    file: the path to which the seconds per step are written, as JSON. warmup: the number of first steps left out.
    """

    def __init__(self, file: str, warmup: int) -> None:
        self.file, self.warmup = Path(file), warmup
        self.times: list[float] = []

    def tick(self) -> None:
        """Records the end of a step."""
        self.times.append(time.perf_counter())

    def write(self) -> None:
        first, last = self.times[self.warmup - 1], self.times[-1]
        self.file.write_text(json.dumps((last - first) / (len(self.times) - self.warmup)))

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        self.tick()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.write()
