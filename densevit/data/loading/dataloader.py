"""Resumable data loader: transforms samples in worker processes and continues at any batch."""

import atexit
import itertools
import math
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch.utils import data

from densevit.channels import RGB
from densevit.data.loading.batch_sampler import EvaluationBatches, SampleKey, TrainBatches
from densevit.data.loading.worker_processes import (
    Collate,
    PickledBatch,
    Skipped,
    original_message,
    start_worker,
    worker_failure,
)
from densevit.data.sample_checks import check_sample, image_sizes, name_of
from densevit.data.transforms.augmentation_phases import AugmentationPhase
from densevit.data.transforms.sample_resizing import EvaluationTransform, TrainingTransform, checked_values, image_size
from densevit.errors import DataError, DensevitError, UnreadableFileError
from densevit.interfaces import Dataset, OptimizerStep, Sample, Size
from densevit.model.training_record import TrainingRecord
from densevit.registry.importing import working_directory_on_path
from densevit.targets.pixel_maps import ValueMap
from densevit.targets.types import TargetTypes
from densevit.targets.value_checks import implausible

_CHECK_SECONDS = 5
_MOST_UNREADABLE = 100  # images in a row


class TransformedDataset(data.Dataset[Sample]):
    """A data set with its transform. In training the transform is random; in evaluation samples also get the
    untransformed targets as `truth`, and `dataset_index`.

    views: samples per image, transformed differently; with several, `__getitem__` returns a list. transform: a
    transform, or in training the `AugmentationPhase`s: the first, and optionally the final one. on_error: how a batch
    treats images whose files cannot be read; see `__getitems__`.

    Raises DataError for a data set without images, for images with other channels, and for target keys without a type:
    at construction if `provides` names such a key, otherwise at the sample.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: "TrainingTransform | EvaluationTransform | Sequence[AugmentationPhase]",
        train: bool,
        views: int = 1,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        if not len(dataset):
            raise DataError(f"The data set {name_of(dataset)} has no images; at least 1 is needed. Check its options.")
        self.dataset, self.transform, self.train, self.views = dataset, transform, train, views
        self.on_error = on_error
        self.channels = getattr(dataset, "channels", RGB)  # `dataset` need not be a subclass of Dataset
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
            transformed = self.transform(sample, self.types)  # type: ignore[operator,arg-type]
        except DensevitError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            location = f"{frame.filename}, line {frame.lineno}"
            name, error_name = name_of(self.dataset), type(error).__name__
            raise DataError(f"Sample {index} of {name} failed: {error_name}: {error} ({location}).") from error
        if not key.repeat:
            transformed["targets"] |= {"truth": sample["targets"], "dataset_index": index}
        return transformed

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

        If all images are unreadable, the batch consists of the next readable image of the data set, as a repeat: each
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

    def check_values(self, count: int = 16) -> TrainingRecord:
        """Raises DataError for invalid values in `count` evenly spaced samples, or fewer if reading takes seconds.
        Returns the sizes of the images, and the medians of maps in absolute units.

        Warns of objects in them that are not trained on because their box has no area inside the image.
        """
        dropped: list[int | str] = []  # the image of each object
        values: dict[str, list[tuple[Any, Size]]] = {}
        record = TrainingRecord()
        is_absolute = getattr(self.dataset, "metric", True)
        sizes = image_sizes(self.dataset)
        if sizes is not None:
            for height, width in np.unique(sizes, axis=0).tolist():
                record.add_size((height, width))
        deadline = time.monotonic() + _CHECK_SECONDS
        for index in np.unique(np.linspace(0, len(self) - 1, count).round().astype(int)).tolist():
            if time.monotonic() > deadline:
                break
            try:
                sample = self.dataset[index]
            except UnreadableFileError:
                if self.on_error == "raise":
                    raise
                continue
            check_sample(sample, self.dataset, index, self.types, self.channels)
            record.add_size(image_size(sample))
            for key, value in checked_values(sample, self.types).items():
                values.setdefault(key, []).append((value, image_size(sample)))
                if is_absolute and isinstance(self.types[key], ValueMap):
                    record.add_map(key, value)
                usable = self.types[key].usable(value, image_size(sample))
                if usable is not None and not self.types[key].truth_only:  # crowds are left out on purpose
                    dropped += [sample["targets"].get("image_id", index)] * int((~usable).sum())
        for key, pairs in values.items():
            if problem := implausible(key, pairs, self.types):
                raise DataError(f"{name_of(self.dataset)}: {key} of a few images {problem}")
        if dropped:
            warnings.warn(
                f"{len(dropped)} objects of a few images of {name_of(self.dataset)} have boxes without area inside "
                f"their image and are not trained on, such as in image {dropped[0]!r}. Fix: correct or remove them.",
                stacklevel=2,
            )
        return record


class Loader(data.DataLoader[Any]):
    """A DataLoader that counts consumed batches and resumes after them.

    batches_per_step: the number of batches of an optimiser step. If it is set, the loader yields `OptimizerStep`s; the
    last step of an epoch may have fewer batches. seconds_waited: time spent waiting for batches, over all iterations.

    Prefetched batches do not count as consumed. `state_dict`, `load_state_dict` and `set_epoch` act on `TrainBatches`;
    a loader for evaluation has no state.
    """

    def __init__(
        self,
        dataset: TransformedDataset,
        batches: "TrainBatches | EvaluationBatches",
        size_divisor: int | Size,
        num_workers: int,
        batches_per_step: int | None = None,
    ) -> None:
        forks = num_workers > 0 and sys.platform == "linux"  # forked workers share the annotations' memory
        super().__init__(
            dataset,
            batch_sampler=batches,
            collate_fn=Collate(size_divisor, num_workers > 0, dataset.channels),
            num_workers=num_workers,
            worker_init_fn=start_worker,
            multiprocessing_context="fork" if forks else None,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # iterators draw a seed: not from the generator that training uses
        )
        self._batches, self.batches_per_step = batches, batches_per_step
        self.seconds_waited = 0.0
        if num_workers:
            atexit.register(_end_workers, weakref.ref(self))

    def __len__(self) -> int:
        return math.ceil(super().__len__() / (self.batches_per_step or 1))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        fetched = self._fetched()
        while batches := tuple(itertools.islice(fetched, self.batches_per_step or 1)):
            if isinstance(self._batches, TrainBatches):
                self._batches.advance(len(batches))
            yield batches[0] if self.batches_per_step is None else OptimizerStep.of(*batches)

    def _fetched(self) -> Iterator[Any]:
        # A generator starts at the first batch: a trainer that resumes requests the iterator before it sets the epoch.
        batches: Iterator[Any] | None = None
        while True:
            since = time.perf_counter()
            try:
                with working_directory_on_path():  # of workers, whose data set may be a config's module:Class
                    batches = super().__iter__() if batches is None else batches
                batch = next(batches)
                received = batch.received() if isinstance(batch, PickledBatch) else batch
            except StopIteration:
                return
            except DensevitError as error:
                message = original_message(error)
                raise error if message == str(error) else type(error)(message) from None
            except (RuntimeError, OSError) as error:
                raise worker_failure(error) or error from None
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


def _end_workers(reference: "weakref.ref[Loader]") -> None:
    """Ends the workers of a loader that lives until the program exits: before torch gives them up and multiprocessing
    sends SIGTERM, after which they wait for their parent for a minute."""
    if (loader := reference()) is not None and loader._iterator is not None:
        loader._iterator._shutdown_workers()  # type: ignore[attr-defined]


MakeLoader = Callable[..., Loader]
"""A constructor of a `Loader`, which may have bound arguments."""


class _KeptSampler(data.DistributedSampler[Any], data.SequentialSampler):
    """A sampler that Lightning keeps in a run of several processes and with `overfit_batches`."""


class ShardedLoader(Loader):
    """The loader of one of several processes. Lightning would replace any sampler but a `DistributedSampler` (with
    `overfit_batches`, any but a `SequentialSampler`), and with it the batches, which are already this process's."""

    @property
    def sampler(self) -> data.DistributedSampler[Any]:
        """Not used: with a batch sampler, a DataLoader does not read it."""
        return _KeptSampler(self.dataset, num_replicas=1, rank=0)

    @sampler.setter
    def sampler(self, default: object) -> None:
        """Called by the constructor of a DataLoader with its default, which is dropped."""
