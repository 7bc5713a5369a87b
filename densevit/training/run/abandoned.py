"""Files of abandoned steps: those after the checkpoint from which a run is resumed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import torch

from densevit.config import Config
from densevit.errors import DensevitError
from densevit.evaluation import metrics_file
from densevit.evaluation.tables_file import LOWER, PLOTS
from densevit.interfaces import Method
from densevit.model import DenseModel
from densevit.training.callbacks.checkpointing import numbered_checkpoints, step_of
from densevit.training.loop.sharding import METADATA, previous_of
from densevit.training.run.resuming import RunCheckpoint
from densevit.weights import model_file
from densevit.weights.state import read_header

FOLDER = "abandoned"
_UNFINISHED = ".unfinished"
_UNKNOWN = 2**63  # the step of a file without one


def move_abandoned(run: Path, checkpoint: Path, step: int) -> Path | None:
    """Moves the files of steps after a checkpoint to RUN/abandoned/1, 2, ...; returns that folder, None without any.

    These are later checkpoints, the model of a later best epoch with its metrics and tables, the report, the
    visualizations and saved faults. The folder gets copies of `config.yaml` and `metrics.csv`: it can be resumed.
    The checkpoint becomes `last.ckpt` first. If the process is killed at any time, the run can be resumed, and what is
    left is moved then. checkpoint, step: the checkpoint that the run is resumed from, and its step. Only one process
    may call it.
    """
    last, parent = run / "checkpoints" / "last.ckpt", run / FOLDER
    is_later = checkpoint != last and last.exists() and _step_in(last) > step
    moved = [path for path in numbered_checkpoints(run) if step_of(path) > step]
    abandons = is_later or bool(moved) or any(parent.glob(f"*{_UNFINISHED}"))
    if abandons:
        moved += _written_later(run, step)
    of_model = _step_of_model(run / "model.safetensors")
    if of_model > step and (abandons or of_model < _UNKNOWN):  # or a run was killed between a model and its checkpoint
        moved += _of_best_epoch(run)
    if not moved and not abandons:
        return None
    target = _unfinished(parent)
    for name in ("config.yaml", "metrics.csv"):
        if (run / name).is_file() and not (target / name).exists():
            shutil.copyfile(run / name, target / name)
    if is_later:
        _replace(last, checkpoint, target / "checkpoints" / last.name)
    for path in moved:
        to = target / path.relative_to(run)
        to.parent.mkdir(exist_ok=True)
        path.rename(to)
    return target.rename(target.with_suffix(""))


def restore_best(run: Path, checkpoint: RunCheckpoint, model: DenseModel, method: Method, config: Config) -> None:
    """Writes the model and the metrics of the best epoch that a checkpoint knows, if the run has them no more.

    They are those of the checkpoint after that epoch, if it is left. The model and the method get its weights: call it
    before the checkpoint is loaded.
    """
    best, paths = checkpoint.best, (run / "model.safetensors", run / "metrics.json")
    step = -1 if best is None else int(best["step"])
    source = checkpoint.path if step == checkpoint.step else run / "checkpoints" / f"step-{step}.ckpt"
    if best is None or all(path.is_file() for path in paths) or not source.is_file():
        return
    state = torch.load(source, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    for part, prefix in ((model, "model."), (method, "method.")):
        part.load_state_dict({key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)})
    saved = method.saved_model(model)
    saved.score_thresholds = dict(best["thresholds"])
    model_file.save(saved, paths[0], config, step=step)
    metrics_file.write(best["metrics"], paths[1])


def _step_of_model(path: Path) -> int:
    """The step of a model file; -1 without a file."""
    if not path.is_file():
        return -1
    try:
        return int(read_header(path).get("step", _UNKNOWN))
    except (DensevitError, ValueError):
        return _UNKNOWN


def _step_in(checkpoint: Path) -> int:
    """The step of a checkpoint; _UNKNOWN if it is damaged."""
    path = checkpoint / METADATA if checkpoint.is_dir() else checkpoint
    with suppress(Exception):  # a damaged pickle may raise any error
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    return _UNKNOWN


def _of_best_epoch(run: Path) -> Iterator[Path]:
    """Yields the files that `BestModel` writes, last the model, whose step tells that all of them are moved."""
    names = ("metrics.json", LOWER, PLOTS)
    paths = (*sorted(run.glob("*-*.csv")), *(run / name for name in names), run / "model.safetensors")
    yield from (path for path in paths if path.is_file())


def _written_later(run: Path, step: int) -> Iterator[Path]:
    """Yields the files of the end of the training, and the faults of later steps."""
    yield from (path for path in (run / "report.html", run / "predictions") if path.exists())
    for path in sorted((run / "faults").glob("step_*.pt")):
        if int("0" + path.stem.split("_")[1]) > step:
            yield path


def _unfinished(parent: Path) -> Path:
    """Returns the folder of a move that was killed, or creates that of the first of PARENT/1, PARENT/2, ... that does
    not exist."""
    parent.mkdir(exist_ok=True)
    numbers = (number for number in count(1) if not (parent / str(number)).exists())
    folder = next(parent.glob(f"*{_UNFINISHED}"), parent / f"{next(numbers)}{_UNFINISHED}")
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return folder


def _replace(last: Path, checkpoint: Path, target: Path) -> None:
    """Moves a checkpoint to `target`, and replaces it by a copy of another one. One of the two exists at any time."""
    if checkpoint.is_dir():
        copy = previous_of(last)  # with which a run is resumed that lacks the last one
        shutil.rmtree(copy, ignore_errors=True)
        partial = copy.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(checkpoint, partial, copy_function=_link)
        partial.rename(copy)
        last.rename(target)
        copy.rename(last)
        return
    partial = last.with_suffix(".partial")
    for path, source in ((partial, checkpoint), (target, last)):
        path.unlink(missing_ok=True)  # of a move that was killed
        _link(source, path)
    partial.replace(last)


def _link(source: str | Path, to: str | Path) -> None:
    """Hard-links a file, or copies it if the file system has no hard links."""
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)
