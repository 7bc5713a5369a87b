"""Error handling of a training: messages with a fix and the command to resume, removal of an empty run folder."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as lightning
import torch

from densevit.config import Config
from densevit.data.loading.dataloader import worker_failure
from densevit.errors import DensevitError, TrainingError, one_line
from densevit.losses.distributed import process_count

_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT),
)


@contextmanager
def translated_errors(folder: Path, config: Config, command: str | None = None) -> Iterator[None]:
    """Raises TrainingError, with the command to resume, if a file cannot be written, memory runs out, or a batch norm
    receives one value per channel, or if another process has ended. command: the command to resume; None: densevit's.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise  # not an error of the system, or stdout is closed
        problem = " cannot be written" if error.errno in _DISK_ERRORS else ""
        reason = f"{error.filename or folder}{problem}: {error.strerror}."
    except TrainingError as error:
        reason = str(error)
    except RuntimeError as error:
        out_of_memory = memory_failure(error, config)
        failure = worker_failure(error) or peer_failure(error)
        if failure is None and not out_of_memory:
            raise
        reason = out_of_memory or str(failure)
    except ValueError as error:
        if not (reason := single_value_failure(error, config)):
            raise
    else:
        return
    raise TrainingError(reason + resume_hint(folder, command))


@contextmanager
def resumable_errors(folder: Path, command: str | None) -> Iterator[None]:
    """Adds the command to resume to errors of data and plugins during training, and as a note to any other exception.
    command: the command to resume; None: densevit's.
    """
    try:
        yield
    except TrainingError:  # see `translated_errors`
        raise
    except DensevitError as error:
        error.args = (f"{error}{resume_hint(folder, command)}",)
        raise
    except Exception as error:
        hint = resume_hint(folder, command).strip()
        if hint and hasattr(error, "add_note"):  # Python 3.11
            error.add_note(hint)
        raise


@contextmanager
def removed_on_error(trainer: lightning.Trainer, folder: Path, new: bool) -> Iterator[None]:
    """Removes the folder of a new run that fails before its first step."""
    try:
        yield
    except DensevitError:
        if new and trainer.global_step == 0 and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def peer_failure(error: RuntimeError) -> str | None:
    """Returns one line for the error of a collective operation if another process has ended; None for others."""
    if process_count() == 1 or not re.search("gloo|nccl|connection (closed|reset|refused)", str(error), re.IGNORECASE):
        return None
    return f"Another of {process_count()} processes has ended; its message, if any, is above ({one_line(error)})."


def memory_failure(error: RuntimeError, config: Config) -> str:
    """Returns one line with the fix for torch's out-of-memory error of a GPU or the CPU; "" for other errors."""
    text = one_line(error)
    if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator: can't allocate memory" not in text:
        return ""
    device = "the CPU" if "CPUAllocator" in text else "the GPU"
    requested = re.search(r"[Tt]ried to allocate [\d.,]+ \w+", text)
    total = re.search(r"total capacity of [\d.,]+ \w+", text)
    size = "the default" if config.data.image_size is None else str(config.data.image_size)
    facts = [f"a batch of {config.data.batch_size}, data.image_size {size}"]
    facts += [match[0][0].lower() + match[0][1:] for match in (requested, total) if match is not None]
    half, accumulate = max(1, config.data.batch_size // 2), config.trainer.accumulate
    fixes = ["a smaller data.image_size"]
    if config.data.batch_size > 1:
        fixes.insert(0, f"data.batch_size={half} with trainer.accumulate={accumulate * config.data.batch_size // half}")
    if not config.backbone.options.get("checkpointing"):
        fixes.append("backbone.checkpointing=true, which recomputes activations in the backward pass")
    if config.trainer.precision in ("32", "64"):
        fixes.append("trainer.precision=bf16-mixed")
    return f"The memory of {device} is full ({'; '.join(facts)}). Fix: set {', or '.join(fixes)}."


def single_value_failure(error: ValueError, config: Config) -> str:
    """Returns one line with the fix for torch's error that a batch norm has one value per channel; "" for others."""
    match = re.search(
        r"^Expected more than 1 value per channel when training, got input size (?:torch.Size\()?(.*\])", str(error)
    )
    if match is None:
        return ""
    return (
        f"A batch norm got an input of size {match[1]}, one value per channel, which has no variance, with "
        f"data.batch_size={config.data.batch_size}. Fix: set data.batch_size=2 or more, or a larger data.image_size, "
        "or a norm that does not depend on the batch, such as norm=group or norm=frozen of that backbone or head."
    )


def resume_hint(folder: Path, command: str | None) -> str:
    """Returns a sentence with the command to resume the run; "" without a checkpoint. command: None: densevit's."""
    if not (folder / "checkpoints" / "last.ckpt").exists():
        return ""
    return f" Resume from the last checkpoint with: {command or resume_command(folder)}"


def resume_command(folder: Path) -> str:
    """Returns densevit's command to resume the run."""
    return f"densevit train --resume {folder}"
