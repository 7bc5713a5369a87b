"""The global state of the process during a run, which its caller gets back."""

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from rich import get_console

from densevit.allocator import keep_freed_memory
from densevit.losses.distributed import process_count

_LOGGERS = {  # the levels of Lightning's loggers during a run
    **dict.fromkeys(("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"), logging.ERROR),
    "lightning_fabric.strategies.launchers": logging.INFO,  # the line about a failed process
}
_MESSAGES = (
    ".*does not have many workers",
    "Detected call of `lr_scheduler.step",  # fp16's scaler skipped the first step
    "Grad strides do not match bucket view strides",  # caused by 1x1 kernels
)


@contextmanager
def run_state(tf32: bool) -> Iterator[None]:
    """Hides Lightning's tips and its warnings about deliberate settings, and sets TF32. Restores the state of the
    process at the end, also after an error: random states, filters of warnings, levels of loggers, TF32, denormal
    numbers, rich's console and the environment."""
    cudnn, console = torch.backends.cudnn, get_console()
    states: list[tuple[Callable[[Any], Any], Any]] = [
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
        (partial(setattr, cudnn, "allow_tf32"), cudnn.allow_tf32),
        (torch.set_flush_denormal, not bool(torch.tensor(1e-38) * 0.1)),
        *((logging.getLogger(name).setLevel, logging.getLogger(name).level) for name in _LOGGERS),
        (partial(setattr, console, "__dict__"), vars(console)),  # rich replaces the dict
        (_restore_environment, dict(os.environ)),
    ]
    with warnings.catch_warnings(), kept_random_states():
        for name, level in _LOGGERS.items():
            logging.getLogger(name).setLevel(level)
        if not sys.warnoptions:
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
            warnings.filterwarnings("ignore", "|".join(_MESSAGES))
        try:
            # TF32 rounds the inputs of fp32 matrix products and convolutions on NVIDIA GPUs to 10 bits. By default
            # torch enables it for convolutions only.
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            cudnn.allow_tf32 = tf32
            yield
        finally:
            for restore, state in states:
                restore(state)


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Restores the random states of Python, NumPy and torch at the end, also after an error."""
    states: list[tuple[Callable[[Any], Any], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
        (torch.set_rng_state, torch.get_rng_state()),
        (torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        if torch.cuda.is_initialized()
        else (torch.cuda.manual_seed_all, torch.initial_seed()),  # `torch.manual_seed` sets both
    ]
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)


@contextmanager
def training_state(tf32: bool) -> Iterator[None]:
    """`run_state` of a run, with memory and denormal numbers as it needs them."""
    with run_state(tf32):
        # Denormal numbers, as from softmax with far-away keys, take a hundred times as long on a CPU: up to a sixth of
        # a training step (docs/development/cpus.md).
        torch.set_flush_denormal(True)
        keep_freed_memory()
        yield


def _restore_environment(environment: Mapping[str, str]) -> None:
    """Keeps new variables that name the processes of a launched group, which train the script's next run too."""
    for name in os.environ.keys() - environment.keys() if process_count() == 1 else ():
        del os.environ[name]
    os.environ.update(environment)
