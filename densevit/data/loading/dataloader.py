"""Resumable data loader: transforms samples in worker processes and continues at any batch."""

import errno
import gc
import itertools
import math
import os
import pickle
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils import data

from densevit.channels import RGB, Channels
from densevit.data.loading.batch_sampler import EvaluationBatches, SampleKey, TrainBatches, collate
from densevit.data.sample_checks import check_sample, name_of
from densevit.data.transforms.phases import Phase, final_phase_start
from densevit.data.transforms.resizing import EvaluationTransform, TrainingTransform, checked_values, image_size
from densevit.errors import DataError, DensevitError, UnreadableFileError, one_line, warn_once
from densevit.interfaces import Batch, Dataset, OptimizerStep, Sample
from densevit.targets.types import TargetTypes

_TINY = 64  # images; fewer are loaded without worker processes
_MOST_WORKERS = 8
_SMALL = 1 << 16  # bytes
_CHECK_SECONDS = 5
_MOST_UNREADABLE = 100  # images in a row


class Skipped(NamedTuple):
    """An image that is left out of a batch, and why. counts: False for a repeat in evaluation."""

    reason: str
    counts: bool


class TransformedDataset(data.Dataset[Sample]):
    """A data set with its transform: random in training; in evaluation, with the untransformed targets as `truth`, and
    the image's `dataset_index`.

    views: samples per image, transformed differently. With several, `__getitem__` returns a list of samples.
    transform: a transform; in training also the `Phase`s of the training: the first, and the final one if it has one.
    on_error: what a batch does with images whose files cannot be read; see `__getitems__`.

    Raises DataError for a data set without images, for images that are not of its channels, and for target keys without
    a type: at construction where `provides` names such a key, otherwise at the sample that has it.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: "TrainingTransform | EvaluationTransform | Sequence[Phase]",
        train: bool,
        views: int = 1,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        if not len(dataset):
            raise DataError(f"The data set {name_of(dataset)} has no images; at least 1 is needed. Check its options.")
        self.dataset, self.transform, self.train, self.views = dataset, transform, train, views
        self.on_error = on_error
        self.channels = getattr(dataset, "channels", RGB)  # of a class without the base class, too
        self.types = TargetTypes.of(dataset)
        if any(key not in self.types for key in getattr(dataset, "provides", ())):
            self.__getitems__([SampleKey(0, 0)])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample | list[Sample]:  # type: ignore[override]
        """Returns the sample of a key, or all its views. A repeat in evaluation has no `truth`: it is not counted."""
        index = key.index
        try:
            sample = self.dataset[index]
            check_sample(sample, self.dataset, index, self.types, self.channels)
            if self.train:
                samples = self._views(sample, key)
                return samples if self.views > 1 else samples[0]
            prepared = self.transform(sample, self.types)  # type: ignore[operator,arg-type]
        except DensevitError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}, line {frame.lineno}"
            name, kind = name_of(self.dataset), type(error).__name__
            raise DataError(f"Sample {index} of {name} failed: {kind}: {error} ({place}).") from error
        if not key.repeat:
            prepared["targets"] |= {"truth": sample["targets"], "dataset_index": index}
        return prepared

    def _views(self, sample: Sample, key: SampleKey) -> list[Sample]:
        """Returns the views of a sample. Raises DataError if a transform of all views returns another number."""
        transform = self._training_transform(key)
        views: list[Any] = []
        while len(views) < self.views:  # numpy pads with zeros: the first repeat has the stream of [seed, index]
            rng = np.random.default_rng([key.seed, key.index, key.repeat, len(views)])
            made: Any = transform(sample, rng, self.types)
            if isinstance(made, list):
                views = made
                break
            views.append(made)
        if len(views) != self.views:
            raise DataError(
                f"The transform of the method returned {len(views)} views of an image; its `views` is {self.views}. "
                "Fix: let both be the same number."
            )
        return views

    def _training_transform(self, key: SampleKey) -> TrainingTransform:
        """Returns the transform of the key's batch."""
        if not isinstance(self.transform, Sequence):
            return self.transform  # type: ignore[return-value]
        return self.transform[-1 if key.final else 0].transform(key.seed, key.batch)

    def __getitems__(self, keys: Sequence[SampleKey]) -> "list[Sample | list[Sample] | Skipped]":
        """Returns a batch's samples. With on_error "skip", a `Skipped` at the end replaces each unreadable image.

        If all are unreadable, the batch has the next readable image of the data set, in evaluation as a repeat: each
        process needs a batch in each step. The result depends only on the keys and the files. Raises DataError for 100
        unreadable images in a row.
        """
        if self.on_error == "raise":
            return self._mixed([self[key] for key in keys], keys[0])
        samples: list[Sample | list[Sample] | Skipped] = []
        skipped = []
        for key in keys:
            try:
                samples.append(self[key])
            except UnreadableFileError as error:
                skipped.append(Skipped(str(error), counts=self.train or not key.repeat))
        last, tried = keys[-1], len(skipped)
        while not samples:
            last, tried = replace(last, index=(last.index + 1) % len(self), repeat=keys[-1].repeat + 1), tried + 1
            try:
                samples.append(self[last])
            except UnreadableFileError as error:
                if tried >= _MOST_UNREADABLE:
                    raise DataError(
                        f"{tried} images in a row cannot be read, the last because of: {error} data.on_error: skip is "
                        "for single damaged files. Fix: check that the disk is mounted, and data.root."
                    ) from None
        return [*self._mixed(samples, keys[0]), *skipped]

    def _mixed(self, samples: list[Any], key: SampleKey) -> list[Any]:
        """Mixes the samples of a training batch, if its phase mixes images.

        key: the key of the batch's first sample.
        """
        if not self.train or not isinstance(self.transform, Sequence):
            return samples
        mixing = self.transform[-1 if key.final else 0].mixing
        return samples if mixing is None else mixing(samples, [key.seed, key.index, key.repeat], self.types)

    def check_values(self, count: int = 16) -> None:
        """Raises DataError for invalid values in `count` evenly spaced samples, or fewer if reading takes seconds.

        Warns of objects of training images that cannot be trained on, such as boxes without area, except crowds.
        """
        unusable: list[str] = []
        deadline = time.monotonic() + _CHECK_SECONDS
        for index in np.unique(np.linspace(0, len(self) - 1, count).round().astype(int)).tolist():
            if time.monotonic() > deadline:
                return
            try:
                sample = self.dataset[index]
            except UnreadableFileError:
                if self.on_error == "raise":
                    raise
                continue
            check_sample(sample, self.dataset, index, self.types, self.channels)
            values, size = checked_values(sample, self.types), image_size(sample)
            for key, value in values.items():
                usable = None if self.types[key].truth_only else self.types[key].usable(value, size)
                if usable is not None and not usable.all():
                    left_out, name = int(np.count_nonzero(~usable)), sample["targets"].get("image_id")
                    unusable.append(f"{key} of {left_out} of the {len(usable)} objects of image {name!r}")
        if unusable and self.train:
            warn_once(
                f"{name_of(self.dataset)}: objects that cannot be trained on, such as boxes without area inside "
                f"their image, are left out in training: {unusable[0]}{', ...' if len(unusable) > 1 else ''}."
            )


class Loader(data.DataLoader[Any]):
    """A DataLoader that counts consumed batches and resumes after them.

    final_start: the fraction of the training at which the final phase starts; None: there is none. training_steps:
    returns the number of optimiser steps of the training; None: unknown, and the final phase is not reached.
    batches_per_step: the number of batches of an optimiser step. If it is set, the loader yields `OptimizerStep`s; the
    last one of an epoch may have fewer batches. seconds_waited: time spent waiting for batches, over all iterations.

    Prefetched batches do not count as consumed. `state_dict`, `load_state_dict` and `set_epoch` are those of its
    `TrainBatches`; a loader for evaluation has no state.
    """

    def __init__(
        self,
        dataset: TransformedDataset,
        batches: "TrainBatches | EvaluationBatches",
        multiple: int,
        num_workers: int,
        final_start: float | None = None,
    ) -> None:
        forks = num_workers > 0 and sys.platform == "linux"  # forked workers share the annotations' memory
        super().__init__(
            dataset,
            batch_sampler=batches,
            collate_fn=_Collate(multiple, num_workers > 0, dataset.channels),
            num_workers=num_workers,
            worker_init_fn=start_worker,
            multiprocessing_context="fork" if forks else None,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # iterators draw a seed, which must not come from the training's own generator
        )
        self._batches = batches
        self.final_start = final_start
        self.batches_per_step: int | None = None
        self.training_steps: Callable[[], int | None] = lambda: None
        self.seconds_waited = 0.0

    def __len__(self) -> int:
        return math.ceil(super().__len__() / (self.batches_per_step or 1))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        fetched = self._fetched()
        while batches := tuple(itertools.islice(fetched, self.batches_per_step or 1)):
            if isinstance(self._batches, TrainBatches):
                self._batches.advance(len(batches))
            yield batches[0] if self.batches_per_step is None else OptimizerStep.of(*batches)

    def _fetched(self) -> Iterator[Any]:
        # created at the first batch: a trainer that resumes requests the iterator before it sets the epoch
        if self.final_start is not None and isinstance(self._batches, TrainBatches):
            steps, lengths = self.training_steps(), (len(self._batches), self.batches_per_step or 1)
            self._batches.final_from = None if steps is None else final_phase_start(self.final_start, steps, *lengths)
        batches: Iterator[Any] | None = None
        pin = self.pin_memory
        while True:
            since = time.perf_counter()
            try:
                if batches is None:
                    batches = super().__iter__()
                batch = next(batches)
                received = batch.received() if isinstance(batch, _PickledBatch) else _received(batch, pin)
            except StopIteration:
                return
            except DensevitError as error:
                message = _original_message(error)
                if message == str(error):
                    raise
                raise type(error)(message) from None
            except (RuntimeError, OSError) as error:
                failure = worker_failure(error)
                if failure is None:
                    raise
                raise failure from None
            self.seconds_waited += time.perf_counter() - since
            yield received

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the order."""
        if isinstance(self._batches, TrainBatches):
            self._batches.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Returns the epoch and the position in it."""
        return self._batches.state_dict() if isinstance(self._batches, TrainBatches) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration continue at the state's position."""
        if isinstance(self._batches, TrainBatches) and state:
            self._batches.load_state_dict(state)


def workers_for(setting: "int | str", length: int, processes: int = 1) -> int:
    """Returns the number of worker processes of a loader: the setting, or, for "auto", by the machine's cores.

    processes: training processes on this machine.
    """
    if not isinstance(setting, str):
        return setting
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if length < _TINY:
        return 0
    # On a CPU, a worker takes time from training: 52 images per second instead of 58 on two cores.
    spare = cores // processes - 1 if torch.accelerator.is_available() else cores // processes // 4
    return max(0, min(_MOST_WORKERS, spare))


class _Collate:
    """Collates samples; in worker processes it also pickles the batch for transfer to the parent."""

    def __init__(self, multiple: int, ships: bool, channels: Channels) -> None:
        self.multiple, self.ships, self.channels = multiple, ships, channels

    def __call__(self, samples: list[Any]) -> Any:
        skipped = [sample.reason for sample in samples if isinstance(sample, Skipped) and sample.counts]
        samples = [sample for sample in samples if not isinstance(sample, Skipped)]
        views = zip(*samples, strict=True) if isinstance(samples[0], list) else [samples]
        batch, *others = [collate(view, self.multiple, self.ships, self.channels) for view in views]
        if others:
            batch["other_views"] = others
        if skipped:
            batch["skipped"] = skipped
        return _PickledBatch(batch) if self.ships else batch


class _PickledBatch:
    """A batch that is pickled in its worker process, where large tensors move into shared memory.

    The worker's queue would do so in a thread of its own, which prints an error and drops the batch, and the parent
    would wait for ever. Raises DataError, which reaches the parent.
    """

    def __init__(self, batch: Batch) -> None:
        try:
            self._pickled = bytes(ForkingPickler.dumps(_shipped(batch)))
        except Exception as error:
            failure = worker_failure(error)
            if failure is None:
                failure = DataError(
                    f"A batch cannot be passed from a data loader's process: {_unpicklable(batch)}{one_line(error)}. "
                    "Fix: let data set and transforms return tensors, arrays, numbers and strings, or set "
                    "data.num_workers=0."
                )
            raise failure from error

    def received(self) -> Any:
        """Returns the batch, in the parent."""
        return _received(pickle.loads(self._pickled))

    def pin_memory(self) -> Any:
        """Returns the batch in pinned memory. Called by the loader's thread that pins."""
        return _received(pickle.loads(self._pickled), pin=True)


def _unpicklable(batch: Batch) -> str:
    """Returns the name of the first target that cannot be pickled, for the start of a message; "" if there is none."""
    for targets in batch["targets"]:
        for key, value in targets.items():
            try:
                ForkingPickler.dumps(value)
            except Exception:
                return f"target {key!r}: "
    return ""


def _shipped(value: Any) -> Any:
    """Converts small tensors to arrays: a tensor sent between processes costs a file descriptor; a batch has many."""
    if isinstance(value, torch.Tensor):
        return value.numpy() if value.nbytes < _SMALL else value
    if isinstance(value, dict):
        return {key: _shipped(item) for key, item in value.items()}
    return [_shipped(item) for item in value] if isinstance(value, list) else value


def _received(value: Any, pin: bool = False) -> Any:
    """Inverse of `_shipped`; pins the memory of tensors for a GPU."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, torch.Tensor):
        return value.pin_memory() if pin else value
    if isinstance(value, dict):
        return {key: _received(item, pin) for key, item in value.items()}
    return [_received(item, pin) for item in value] if isinstance(value, list) else value


def worker_failure(error: Exception) -> DataError | None:
    """Returns a one-line error for errors about killed workers, shared memory and open files, or else None.

    torch raises the first from a signal handler, at any point of the program.
    """
    text = str(error)
    memory = re.search(r"unable to (?:allocate shared memory|write to file|mmap|resize file)[^\n]*/torch_[^\n]*", text)
    is_semaphore = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
    if memory is not None or is_semaphore:
        reason = text if memory is None else memory[0].rstrip(".")
        return DataError(
            f"A data loader's process found no space in /dev/shm, through which batches are passed ({reason}). Fix: "
            "give a container more with --shm-size=8g, or reduce data.num_workers (0 needs none), data.batch_size or "
            "data.image_size."
        )
    if "items of ancdata" in text or "Too many open files" in text:
        return DataError(
            "The data loader's processes have too many open files. Fix: raise the limit with ulimit -n 65536, or "
            "reduce data.num_workers (0 loads in the training process)."
        )
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(?: is killed by signal: ([^.]+))?", str(error))
    if found is None:
        return None
    how = f"was killed by the signal {found[2].strip()!r}" if found[2] else "ended without a message"
    cause = "as happens when memory runs out"
    if "shared memory" in str(error) or "Bus error" in str(error):
        cause = "as /dev/shm is full; give a container more with --shm-size"
    return DataError(
        f"A data loader's process ({found[1]}) {how}, {cause}. Fix: reduce data.num_workers (0 loads in the training "
        "process), data.batch_size or data.image_size."
    )


def start_worker(worker: int) -> None:
    """`worker_init_fn` of loaders: the process uses one thread and shares its parent's memory."""
    cv2.setNumThreads(0)  # the processes are the parallelism
    torch.set_num_threads(1)
    gc.freeze()  # collecting would write to, and so copy, every page that holds one of the parent's objects


def _original_message(error: DensevitError) -> str:
    """Returns the error's message without the worker's traceback that torch adds."""
    name = re.escape(f"{type(error).__module__}.{type(error).__qualname__}: ")
    parts = re.split(f"^{name}", str(error), flags=re.MULTILINE)
    return parts[-1].rstrip("\n")
