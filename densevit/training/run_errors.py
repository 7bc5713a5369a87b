"""Errors of a training: what is reported to the user, and what becomes of the folder."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as lightning

from densevit.data.loading.dataloader import worker_failure
from densevit.errors import DensevitError, TrainingError

_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT),
)


@contextmanager
def translated_errors(folder: Path) -> Iterator[None]:
    """Raises TrainingError, with the command to resume, if a file cannot be written or another process has ended."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        reason = f"{error.filename or folder} cannot be written: {error.strerror}."
    except TrainingError as error:
        reason = str(error)
    except RuntimeError as error:
        failure = worker_failure(error)
        if failure is None:
            raise
        reason = str(failure)
    else:
        return
    raise TrainingError(reason + resume_hint(folder))


@contextmanager
def removed_on_error(trainer: lightning.Trainer, folder: Path, new: bool) -> Iterator[None]:
    """Removes the folder of a new run that fails before its first step, unless the step was saved."""
    try:
        yield
    except DensevitError:
        if new and trainer.global_step == 0 and trainer.is_global_zero and not (folder / "faults").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def resume_hint(folder: Path) -> str:
    """The command that resumes the run, if it has a checkpoint."""
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return ""
    return f" Resume from the last checkpoint with: densevit train --resume {folder}"
