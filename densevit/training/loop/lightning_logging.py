"""Silences Lightning's info logs and known-benign warnings."""

import logging
import sys
import warnings

LOGGERS = {
    **dict.fromkeys(("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"), logging.ERROR),
    "lightning_fabric.strategies.launchers": logging.INFO,  # the line about a failed process
}
"""The levels of Lightning's loggers during a run."""

_MESSAGES = (
    ".*does not have many workers",
    "Detected call of `lr_scheduler.step",  # fp16's scaler skipped the first step
    "Grad strides do not match bucket view strides",  # caused by 1x1 kernels
)


def silence_lightning() -> None:
    """Hides Lightning's tips, its notes on hardware, and its warnings about deliberate settings."""
    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
        warnings.filterwarnings("ignore", "|".join(_MESSAGES))
