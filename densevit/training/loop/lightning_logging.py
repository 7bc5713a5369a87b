"""Silences Lightning's info logs and known-benign warnings."""

import logging
import sys
import warnings


def silence_lightning() -> None:
    """Hides Lightning's tips, its notes on hardware, and its warnings about deliberate settings."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Keeps the line about a failed process, before Lightning stops the others.
    logging.getLogger("lightning_fabric.strategies.launchers").setLevel(logging.INFO)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # fp16's scaler skipped the first step
        warnings.filterwarnings(
            "ignore", message="Grad strides do not match bucket view strides"
        )  # caused by 1x1 kernels
