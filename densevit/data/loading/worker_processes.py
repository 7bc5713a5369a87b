"""Worker processes of a data loader: their number, the transfer of batches from them, and their failures."""

import gc
import os
import pickle
import re
import signal
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils._pytree import tree_map_only  # noqa: PLC2701  # torch has no public name for it

from densevit.channels import Channels
from densevit.data.loading.batch_sampler import collate
from densevit.errors import DataError, DensevitError, one_line
from densevit.interfaces import Batch, Size

_TINY = 64  # images; fewer are loaded without worker processes
_MOST_WORKERS = 8
_SMALL = 1 << 16  # bytes


class Skipped(NamedTuple):
    """An image that is left out of a batch. counts: whether to report it; False for a repeat in evaluation."""

    reason: str
    counts: bool


def workers_for(setting: "int | str", length: int, processes: int = 1) -> int:
    """Returns the number of worker processes of a loader: the setting, or for "auto" a number by the machine's cores.

    length: images of the data set. processes: training processes on this machine.
    """
    if not isinstance(setting, str):
        return setting
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if length < _TINY:
        return 0
    # Without an accelerator, a worker slows training down: 52 images per second instead of 58 on two cores.
    spare = cores // processes - 1 if torch.accelerator.is_available() else cores // processes // 4
    return max(0, min(_MOST_WORKERS, spare))


def start_worker(worker: int) -> None:
    """`worker_init_fn` of loaders: limits the process to one thread of low priority, and keeps memory shared with its
    parent."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(10)  # as of the threads that read images for `predict`
    cv2.setNumThreads(0)  # the processes are the parallelism
    torch.set_num_threads(1)
    gc.freeze()  # a collection would write to, and so copy, every memory page with an object of the parent
    for number in (signal.SIGINT, signal.SIGUSR1):  # sent to all processes of a terminal or job; the parent handles it
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))  # the parent finishes its step, or has failed to


class Collate:
    """Collates samples; in worker processes it also pickles the batch for transfer to the parent."""

    def __init__(self, size_divisor: int | Size, ships: bool, channels: Channels) -> None:
        self.size_divisor, self.ships, self.channels = size_divisor, ships, channels

    def __call__(self, samples: list[Any]) -> Any:
        skipped = [sample.reason for sample in samples if isinstance(sample, Skipped) and sample.counts]
        samples = [sample for sample in samples if not isinstance(sample, Skipped)]
        views = zip(*samples, strict=True) if isinstance(samples[0], list) else [samples]
        batch, *other_views = [collate(view, self.size_divisor, self.ships, self.channels) for view in views]
        if other_views:
            batch["other_views"] = other_views
        if skipped:
            batch["skipped"] = skipped
        return PickledBatch(batch) if self.ships else batch


class PickledBatch:
    """A batch pickled in its worker process, where large tensors move into shared memory.

    Otherwise the worker's queue pickles in a thread: on an error that thread prints and drops the batch, and the parent
    waits for ever. Here an error is raised as a DataError, which reaches the parent.
    """

    def __init__(self, batch: Batch) -> None:
        try:
            self._pickled = bytes(ForkingPickler.dumps(_shipped(batch)))
        except Exception as error:
            raise worker_failure(error) or DataError(
                f"A batch cannot be passed from a data loader's process: {one_line(error)}. Fix: let data set and "
                "transforms return tensors, arrays, numbers and strings, or set data.num_workers=0."
            ) from error

    def received(self) -> Any:
        """Returns the batch, in the parent."""
        return _received(pickle.loads(self._pickled))

    def pin_memory(self) -> Any:
        """Returns the batch in pinned memory, in the loader's pinning thread."""
        return _received(pickle.loads(self._pickled), pin=True)


def _shipped(value: Any) -> Any:
    """Converts small tensors to arrays: each tensor sent between processes costs a file descriptor."""
    return tree_map_only(torch.Tensor, lambda x: x.numpy() if x.nbytes < _SMALL else x, value)


def _received(value: Any, pin: bool = False) -> Any:
    """Inverse of `_shipped`; pins the memory of tensors for a GPU."""
    value = tree_map_only(np.ndarray, torch.from_numpy, value)
    return tree_map_only(torch.Tensor, torch.Tensor.pin_memory, value) if pin else value


_SMALLER = "reduce data.num_workers (0 loads in the training process), data.batch_size or data.image_size"
_FAILURES = (  # what torch says, what it means, and the fix
    (
        r"unable to (allocate shared memory|write to file|mmap|resize file).*/torch_|Bus error|"
        r"No space left on device$",
        "found no space in /dev/shm, through which batches are passed",
        f"give a container more with --shm-size=8g, or {_SMALLER}",
    ),
    (
        "items of ancdata|Too many open files",
        "has too many open files",
        "raise the limit with ulimit -n 65536, or set data.num_workers=0",
    ),
    (r"DataLoader worker \(pid", "was killed, as happens when memory runs out", _SMALLER),
)


def worker_failure(error: Exception) -> DataError | None:
    """Returns a one-line error for errors about killed workers, shared memory and open files, or else None.

    torch raises the first from a signal handler, at any point of the program.
    """
    for pattern, what, fix in _FAILURES:
        if match := re.search(f".*({pattern}).*", str(error)):
            reason = match[0].removeprefix("RuntimeError: ").strip(". ")
            return DataError(f"A data loader's process {what} ({reason}). Fix: {fix}.")
    return None


def original_message(error: DensevitError) -> str:
    """Returns the error's message without the worker's traceback that torch adds."""
    name = re.escape(f"{type(error).__module__}.{type(error).__qualname__}: ")
    parts = re.split(f"^{name}", str(error), flags=re.MULTILINE)
    return parts[-1].rstrip("\n")
