"""The state of a process that a call must leave as it is for its caller."""

import logging
import os
import random
import signal
import sys
import threading
import warnings
from typing import Any

import numpy as np
import rich
import torch

_LIGHTNING = ("pytorch_lightning", "lightning", "lightning_fabric")


def global_state() -> dict[str, Any]:
    """Comparable values by name."""
    import torch._dynamo.config  # late: two seconds
    import torch.fx.experimental._config

    np_state: Any = np.random.get_state()
    loggers = [name for name in sorted(logging.root.manager.loggerDict) if name.split(".")[0] in _LIGHTNING]
    modules = {"torch": torch, "cuda": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn}
    return {
        "random": random.getstate(),
        "numpy": (np_state[1].tolist(), *np_state[2:]),
        "torch": (torch.get_rng_state().tolist(), torch.initial_seed()),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "dtype": (torch.get_default_dtype(), torch.get_default_device()),
        "tf32": (torch.get_float32_matmul_precision(), modules["cuda"].allow_tf32, modules["cudnn"].allow_tf32),
        "cudnn": (modules["cudnn"].benchmark, modules["cudnn"].deterministic, modules["cudnn"].enabled),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "denormals": bool(torch.tensor(1e-38) * 0.1),
        "levels": {name: logging.getLogger(name).level for name in loggers} | {"disable": logging.root.manager.disable},
        "console": {
            key: [*value] if isinstance(value, list) else value  # such as the hooks
            for key, value in vars(rich.get_console()).items()
            if key not in {"_thread_locals"}
        },
        "compilation": torch._dynamo.config.get_config_copy() | torch.fx.experimental._config.get_config_copy(),
        "stdin": sys.stdin,
        "path": [*sys.path],
        "folder": os.getcwd(),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.getrecursionlimit()),
    }


def changed(before: dict[str, Any]) -> list[str]:
    """The names of what differs now, with the differing entries of a mapping."""
    after, names = global_state(), []
    for name, value in before.items():
        if isinstance(value, dict):
            keys = {*value, *after[name]} if name != "levels" else {*value}  # loggers of modules imported meanwhile
            names += [f"{name}: {key}" for key in sorted(keys, key=str) if value.get(key) != after[name].get(key)]
        elif value != after[name]:
            names.append(name)
    return names


def disturb() -> None:
    """Sets random states, a filter of warnings and levels of loggers to values that no call would set."""
    random.seed(1234)
    np.random.seed(5678)
    torch.manual_seed(9012)
    warnings.filterwarnings("ignore", "a message that nothing writes")
    for name in _LIGHTNING:
        logging.getLogger(name).setLevel(logging.CRITICAL)
