"""Reports a step that does not finish."""

import faulthandler
from typing import Any

import pytorch_lightning as lightning

_STDERR = 2  # the file descriptor: sys.stderr may lack one, as in a notebook


class StallReport(lightning.Callback):
    """Writes the stacks of all threads to stderr if no training or validation batch ends for `seconds`, once per stall.
    Training continues.

    seconds: the longest time between the ends of two batches; None: no report.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds

    def on_fit_start(self, *_: Any, **__: Any) -> None:
        if self.seconds is not None:
            faulthandler.dump_traceback_later(self.seconds, file=_STDERR)

    on_train_batch_end = on_validation_batch_end = on_fit_start

    def on_exception(self, *_: Any, **__: Any) -> None:
        faulthandler.cancel_dump_traceback_later()

    teardown = on_exception
