"""Error handling of a run: messages with the fix and the command to resume, removal of an empty run folder."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as lightning
import torch

from densevit.config import Config
from densevit.data.loading.worker_processes import worker_failure
from densevit.errors import DensevitError, TrainingError, one_line, resume_hint
from densevit.losses.distributed import process_count
from densevit.weights.state_dict_io import read_header

_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT),
)


@contextmanager
def resumable_errors(folder: Path, config: Config) -> Iterator[None]:
    """Raises TrainingError if a file cannot be written, memory runs out, or another process has ended; adds the command
    to resume to it and to errors of data and plugins (`DensevitError.resume`), and as a note to any other exception.
    """
    try:
        yield
    except DensevitError as error:
        best = _best_epoch(folder) if isinstance(error.__context__, OSError) else ""
        error.args, error.resume = (f"{error}{best}",), resume_command(folder)
        raise
    except Exception as error:
        command = resume_command(folder)
        if reason := _reason(error, folder, config):
            failure = TrainingError(reason)
            failure.resume = command
            raise failure from error
        if command and hasattr(error, "add_note"):  # Python 3.11
            error.add_note(resume_hint(command).strip())
        raise


@contextmanager
def removed_on_error(trainer: lightning.Trainer, folder: Path, new: bool) -> Iterator[None]:
    """Removes the folder of a new run that fails before the first step."""
    try:
        yield
    except DensevitError:
        if new and trainer.global_step == 0 and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _reason(error: Exception, folder: Path, config: Config) -> str:
    """One line for a system error, a memory error, a failed loader process or another failed training process; "" for
    other errors."""
    if isinstance(error, OSError):
        if error.errno is None or isinstance(error, BrokenPipeError):
            return ""  # not a system error, or stdout is closed
        problem = " cannot be written" if error.errno in _DISK_ERRORS else ""
        return f"{error.filename or folder}{problem}: {error.strerror}.{_best_epoch(folder) if problem else ''}"
    if not isinstance(error, RuntimeError):
        return ""
    return _memory_failure(error, config) or str(worker_failure(error) or "") or _peer_failure(error)


def _best_epoch(folder: Path) -> str:
    """A sentence with the epoch that `model.safetensors` has, by its last step; "" without the file."""
    model = folder / "model.safetensors"
    step = read_header(model).get("step") if model.is_file() else None
    return f" {model.name} has the epoch of step {step}." if step else ""


def _memory_failure(error: RuntimeError, config: Config) -> str:
    if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator: can't allocate memory" not in str(error):
        return ""
    size, accumulate = config.data.batch_size, config.trainer.accumulate
    half = max(1, size // 2)
    return (
        f"The memory is full with data.batch_size={size}. Fix: set data.batch_size={half} with "
        f"trainer.accumulate={accumulate * size // half}, a smaller data.image_size, trainer.precision=bf16-mixed, or "
        "backbone.gradient_checkpointing=true, which recomputes activations in the backward pass."
    )


def _peer_failure(error: RuntimeError) -> str:
    if process_count() == 1 or not re.search("gloo|nccl|connection (closed|reset|refused)", str(error), re.IGNORECASE):
        return ""
    return f"Another of {process_count()} processes has ended; its message, if any, is above ({one_line(error)})."


def resume_command(folder: Path) -> str:
    """The command to resume the run; "" without a checkpoint."""
    return f"densevit train --resume {folder}" if (folder / "checkpoints" / "last.ckpt").exists() else ""
