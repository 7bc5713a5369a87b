"""Threads that read and write images beside predicting, at a lower priority."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

_NICE = 10  # of the system: about a ninth of the time of a core that the main thread wants too


def background_threads(count: int, name: str) -> ThreadPoolExecutor:
    """Returns a pool whose threads leave the cores to the main thread, which keeps the accelerator busy. On other
    systems than Linux, priorities are of processes, and unchanged."""
    return ThreadPoolExecutor(count, name, _lower_priority if sys.platform == "linux" else None)


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
