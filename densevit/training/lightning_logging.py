"""What Lightning would say, and nobody needs to read."""

import logging
import sys
import warnings


def quieten() -> None:
    """Lightning's tips and notes on hardware are not for our users, nor its warnings of what we chose on purpose."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # of 1x1 kernels
