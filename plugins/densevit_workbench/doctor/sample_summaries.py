"""Reads samples of a data set, checks targets by type, and measures them before and after augmentation."""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils import data

from densevit.data.datasets.mix import Mix
from densevit.data.duplicate_images import difference_hash, pixel_digest
from densevit.data.io.channel_files import as_rgb
from densevit.data.io.image_names import image_name
from densevit.data.loading.worker_processes import start_worker
from densevit.data.sample_checks import check_image
from densevit.data.transforms.sample_resizing import TrainingTransform, as_numpy, to_pixels
from densevit.errors import DataError, one_line
from densevit.interfaces import Dataset, Sample, Size, TargetType
from densevit.registry.importing import working_directory_on_path
from densevit.targets.object_targets import Boxes, ObjectLabels
from densevit.targets.types import TargetTypes, untyped_keys
from densevit_workbench.doctor.channel_examination import ChannelValues, channel_values
from densevit_workbench.doctor.close_boxes import close_pairs
from densevit_workbench.doctor.target_measures import class_counts, measure

_FEW, _MOST_WORKERS = 64, 8

Measures = dict[str, dict[str, np.ndarray]]  # by target key, by name


@dataclass(frozen=True)
class Summary:
    """Measurements of one image and its targets.

    index: the image's index in the data set. name: its file name or id. problem: the reading error, or empty; with a
    problem, the fields below are empty. wrong: error messages about the image and its targets. digest: a hash of the
    pixels, empty for invalid images. bits: (256,) bool, the difference hash; None for a flat image. channels: measures
    of each channel; None for 8-bit RGB.
    counts: objects or pixels per class, by target key. objects: the number of trainable objects. measures, inputs:
    measures of the targets, as annotated and after the training transform. kept: the number of objects after the
    transform; -1 if the transform failed with the error `failure`. labelled: the labelled classes; None: all. part: the
    set of a mix. close_boxes: texts about boxes that are nearly the same, and whether they have one class.
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
    labelled: tuple[str, ...] | None = None
    part: str = ""
    close_boxes: tuple[tuple[str, bool], ...] = ()


class Summaries(data.Dataset[Summary]):
    """Summaries of some images. transform: the training transform for the first `most` images, if any."""

    def __init__(
        self, dataset: Dataset, indices: Sequence[int], transform: TrainingTransform | None, most: int
    ) -> None:
        self.dataset, self.indices, self.transform, self.most = dataset, indices, transform, most
        self.types = TargetTypes.of(dataset)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Summary:
        index = self.indices[position]
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
            summary = self._summary(index, sample)
            transformed = position < self.most and self.transform is not None and not summary.wrong
            return self._transformed(summary, sample) if transformed else summary

    def _summary(self, index: int, sample: Sample) -> Summary:
        pixels = to_pixels(sample["image"])
        size, targets = (pixels.shape[0], pixels.shape[1]), sample["targets"]
        name = image_name(self.dataset, index, targets.get("image_id", index))
        values = {key: as_numpy(value) for key, value in targets.items() if key in self.types}
        wrong: list[str] = []
        counts: dict[str, np.ndarray] = {}
        measures: Measures = {}
        for key, value in values.items():
            target_type = self.types[key]
            try:
                target_type.check(value, size)
                counts |= self._counts(key, target_type, value)
                measures[key] = dict(measure(target_type, value, size))
            except DataError as error:
                wrong.append(f"image {name}: {key} {error}")
            except Exception as error:  # a value of another type than a third party's target type expects
                wrong.append(f"image {name}: {key} {type(error).__name__}: {one_line(error)}")
        wrong += [f"image {name}: {key} has no target type" for key in untyped_keys(targets, self.types)]
        lengths = {key: len(value) for key, value in values.items() if self.types[key].per == "object"}
        if len(set(lengths.values())) > 1:
            wrong.append(f"image {name}: values per object differ in number: {lengths}")
        objects = max(lengths.values(), default=None)
        close_boxes: tuple[tuple[str, bool], ...] = ()
        if objects and not wrong:
            usable = self._usable_objects(values, size, objects)
            objects, close_boxes = int(usable.sum()), self._close_boxes(name, values, usable)
        channels = self.dataset.channels
        digest, bits = pixel_digest(pixels), difference_hash(as_rgb(pixels, channels))
        per_channel = None if channels.is_rgb else channel_values(sample["image"].numpy(), channels)
        names = {c.name for classes in self.dataset.classes.values() for c in classes}
        labelled = tuple(targets["labelled"]) if names - {*targets.get("labelled", names)} else None
        part = str(targets["image_id"]).partition("/")[0] if isinstance(self.dataset, Mix) else ""
        summary = Summary(index, "", name, tuple(wrong), size, digest, bits, per_channel, counts, objects, measures)
        return replace(summary, labelled=labelled, part=part, close_boxes=close_boxes)

    def _usable_objects(self, values: Mapping[str, Any], size: Size, objects: int) -> np.ndarray:
        """(N,) bool: objects without crowds and boxes without area."""
        usable = [self.types[key].usable(v, size) for key, v in values.items() if self.types[key].per == "object"]
        masks = [mask for mask in usable if mask is not None]
        return np.asarray(np.logical_and.reduce(masks)) if masks else np.ones(objects, bool)

    def _close_boxes(self, name: str, values: Mapping[str, Any], usable: np.ndarray) -> tuple[tuple[str, bool], ...]:
        """`Summary.close_boxes` of an image."""
        by_type = {type(self.types[key]): key for key in values}
        boxes, labels = by_type.get(Boxes), by_type.get(ObjectLabels)
        if boxes is None or labels is None:
            return ()
        indices = np.flatnonzero(usable)
        pairs = indices[close_pairs(np.zeros(len(indices)), values[boxes][indices])].tolist()
        classes = self.dataset.classes.get(self.types[labels].task or "", ())
        texts = []
        for first, second in pairs:
            label, second_label = int(values[labels][first]), int(values[labels][second])
            text = f"image {name}: boxes {first} ({classes[label].name}) and {second} ({classes[second_label].name})"
            texts.append((text, label == second_label))
        return tuple(texts)

    def _counts(self, key: str, target_type: TargetType, value: Any) -> dict[str, np.ndarray]:
        classes = getattr(self.dataset, "classes", {}).get(target_type.task, ())
        counts = class_counts(target_type, value, len(classes)) if classes else None
        if counts is None:
            return {}
        if target_type.per == "object" and counts.sum() < len(value):
            raise DataError(f"has a class index outside of 0 ... {len(classes) - 1}: {value.min()} to {value.max()}.")
        return {key: counts}

    def _transformed(self, summary: Summary, sample: Sample) -> Summary:
        assert self.transform is not None
        try:
            targets = transformed(self.transform, sample, summary.index, self.types)["targets"]
        except Exception as error:  # DataError, or whatever a third party's transforms or type raises
            return replace(summary, kept=-1, failure=f"image {summary.name}: {one_line(error)}")
        size, inputs = targets["size"], {}
        per_object = [len(as_numpy(v)) for k, v in targets.items() if k in self.types and self.types[k].per == "object"]
        for key, value in targets.items():
            if key in self.types and key in summary.measures:
                inputs[key] = dict(measure(self.types[key], as_numpy(value), size))
        return replace(summary, inputs=inputs, kept=max(per_object, default=None))


def transformed(transform: TrainingTransform, sample: Sample, index: int, types: Mapping[str, TargetType]) -> Sample:
    """Transforms a sample. index: the seed, which is the sample's index in the data set."""
    return transform(sample, np.random.default_rng([0, index]), types)


def read_summaries(samples: Summaries) -> Iterator[Summary]:
    """Reads summaries, by worker processes if there are many."""
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
    with working_directory_on_path():  # of the workers, as in training
        summaries = iter(loader)
    yield from summaries


def _unchanged(summary: Any) -> Any:
    return summary
