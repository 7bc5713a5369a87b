"""Reads samples of a data set, checks their targets by type, and measures them before and after augmentation."""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils import data

from densevit.data.duplicate_images import difference_hash, pixel_digest
from densevit.data.io.channel_files import as_rgb
from densevit.data.io.image_names import image_name
from densevit.data.loading.worker_processes import start_worker
from densevit.data.sample_checks import check_image
from densevit.data.transforms.sample_resizing import TrainingTransform, as_numpy, to_pixels
from densevit.errors import DataError, one_line
from densevit.interfaces import Dataset, Sample, Size, TargetType
from densevit.targets.types import TargetTypes, untyped_keys
from densevit_workbench.doctor.channels import ChannelValues, channel_values
from densevit_workbench.doctor.measures import class_counts, measure

_FEW, _MOST_WORKERS = 64, 8

Measures = dict[str, dict[str, np.ndarray]]  # by target key, by name


@dataclass(frozen=True)
class Summary:
    """Measurements of one image and its targets.

    index: the image's index in the data set. name: the name of its file, or its id. problem: why it cannot be read, or
    empty; if it is set, the fields below are empty. wrong: error messages about the image and its targets. digest: a
    hash of the pixels, empty where they are invalid. bits: (256,) bool, the difference hash; None for a flat image.
    channels: the values of each channel; None for RGB of 8 bits.
    counts: the number of objects or pixels of each class, by target key. objects: the number of objects that can be
    trained on. measures, inputs: numbers of the targets, as annotated and after the training transform. kept: the
    number of objects after the transform; -1 where the transform failed, for the reason `failure`.
    """

    index: int
    problem: str = ""
    name: str = ""
    wrong: tuple[str, ...] = ()
    size: Size = (0, 0)
    digest: bytes = b""
    bits: np.ndarray | None = None
    channels: ChannelValues | None = None
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    objects: int | None = None
    measures: Measures = field(default_factory=dict)
    inputs: Measures = field(default_factory=dict)
    kept: int | None = None
    failure: str = ""


class Summaries(data.Dataset[Summary]):
    """The summaries of some images. transform: the training transform; None: images are not transformed."""

    def __init__(
        self, dataset: Dataset, indices: Sequence[int], transform: TrainingTransform | None, most: int
    ) -> None:
        self.dataset, self.indices, self.transform, self.most = dataset, indices, transform, most
        self.types = TargetTypes.of(dataset)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Summary:
        index = self.indices[place]
        try:
            sample = self.dataset[index]
        except DataError as error:
            return Summary(index, problem=str(error))
        except Exception as error:  # of a third party's data set
            return Summary(index, problem=f"image {index}: {type(error).__name__}: {one_line(error)}")
        name = image_name(self.dataset, index, sample["targets"].get("image_id", index))
        try:
            check_image(sample["image"], sample["targets"], f"image {name}", self.dataset.channels)
        except DataError as error:
            return Summary(index, "", name, wrong=(str(error),))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # objects that are left out are counted
            found = self._summary(index, sample)
            transformed = place < self.most and self.transform is not None and not found.wrong
            return self._transformed(found, sample) if transformed else found

    def _summary(self, index: int, sample: Sample) -> Summary:
        pixels = to_pixels(sample["image"])
        size, targets = (pixels.shape[0], pixels.shape[1]), sample["targets"]
        name = image_name(self.dataset, index, targets.get("image_id", index))
        values = {key: as_numpy(value) for key, value in targets.items() if key in self.types}
        wrong: list[str] = []
        counts: dict[str, np.ndarray] = {}
        measures: Measures = {}
        for key, value in values.items():
            kind = self.types[key]
            try:
                kind.check(value, size)
                counts |= self._counts(key, kind, value)
                measures[key] = dict(measure(kind, value, size))
            except DataError as error:
                wrong.append(f"image {name}: {key} {error}")
            except Exception as error:  # a value of another type than a third party's target type expects
                wrong.append(f"image {name}: {key} {type(error).__name__}: {one_line(error)}")
        wrong += [f"image {name}: {key} has no target type" for key in untyped_keys(targets, self.types)]
        lengths = {key: len(value) for key, value in values.items() if self.types[key].per == "object"}
        if len(set(lengths.values())) > 1:
            wrong.append(f"image {name}: values per object differ in number: {lengths}")
        objects = max(lengths.values(), default=None)
        if objects and not wrong:
            objects = self._usable_objects(values, size, objects)
        channels = self.dataset.channels
        digest, bits = pixel_digest(pixels), difference_hash(as_rgb(pixels, channels))
        of_channels = None if channels.is_rgb else channel_values(sample["image"].numpy(), channels)
        return Summary(index, "", name, tuple(wrong), size, digest, bits, of_channels, counts, objects, measures)

    def _usable_objects(self, values: Mapping[str, Any], size: Size, objects: int) -> int:
        """The number of objects that can be trained on: not crowds, and not boxes without area."""
        usable = [self.types[key].usable(v, size) for key, v in values.items() if self.types[key].per == "object"]
        known = [one for one in usable if one is not None]
        return int(np.logical_and.reduce(known).sum()) if known else objects

    def _counts(self, key: str, kind: TargetType, value: Any) -> dict[str, np.ndarray]:
        classes = getattr(self.dataset, "classes", {}).get(kind.task, ())
        found = class_counts(kind, value, len(classes)) if classes else None
        if found is None:
            return {}
        if kind.per == "object" and found.sum() < len(value):
            raise DataError(f"has a class index outside of 0 ... {len(classes) - 1}: {value.min()} to {value.max()}.")
        return {key: found}

    def _transformed(self, found: Summary, sample: Sample) -> Summary:
        assert self.transform is not None
        try:
            targets = transformed(self.transform, sample, found.index, self.types)["targets"]
        except Exception as error:  # DataError, or whatever a third party's transforms or type raises
            return replace(found, kept=-1, failure=f"image {found.name}: {one_line(error)}")
        size, inputs = targets["size"], {}
        per_object = [len(as_numpy(v)) for k, v in targets.items() if k in self.types and self.types[k].per == "object"]
        for key, value in targets.items():
            if key in self.types and key in found.measures:
                inputs[key] = dict(measure(self.types[key], as_numpy(value), size))
        return replace(found, inputs=inputs, kept=max(per_object, default=None))


def transformed(transform: TrainingTransform, sample: Sample, index: int, types: Mapping[str, TargetType]) -> Sample:
    """The transformed sample; repeated calls with one index give the same result."""
    return transform(sample, np.random.default_rng([0, index]), types)


def read_summaries(samples: Summaries) -> Iterator[Summary]:
    """The summaries, read by worker processes if there are many."""
    workers = 0 if len(samples) < _FEW else min(_MOST_WORKERS, os.cpu_count() or 1)
    forks = "fork" if workers and sys.platform == "linux" else None
    loader: data.DataLoader[Any] = data.DataLoader(
        samples,
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=start_worker,
        multiprocessing_context=forks,
        generator=torch.Generator(),  # the loader draws a seed, which must not come from a caller's generator
    )
    yield from loader


def _unchanged(summary: Any) -> Any:
    return summary
