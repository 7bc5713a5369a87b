"""Statistics of one split: classes, sizes, objects and other measures of its targets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.measured_images import MeasuredImages
from densevit.data.transforms.sample_resizing import TrainingTransform
from densevit.grouping import grouped
from densevit.interfaces import Dataset
from densevit.targets.types import TargetTypes
from densevit_workbench.doctor.channel_examination import ChannelValues
from densevit_workbench.doctor.findings import evenly_spaced
from densevit_workbench.doctor.sample_summaries import Measures, Summaries, Summary, read_summaries
from densevit_workbench.doctor.target_measures import class_counts, measure

MOST_TRANSFORMED = 200  # images to run through the training transform

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass
class ClassCounts:
    """The frequency of each class. unit: "objects" or "pixels". complete: whether all images are counted, instead of
    the opened images alone."""

    names: tuple[str, ...]
    counts: np.ndarray
    unit: str
    complete: bool


@dataclass
class SplitStatistics:
    """Statistics of one split.

    sizes: (n, 2), heights and widths of images, where known. measures: annotated targets by key and name. complete:
    keys with measures of all images. inputs: measures of `MOST_TRANSFORMED` images after the training transform.
    objects: the number of objects per image, where known. summaries: summaries of opened images. channels: the images'
    channels, for train with the ranges of the training.
    """

    split: str
    images: int
    provides: tuple[str, ...]
    sizes: np.ndarray
    classes: dict[str, ClassCounts] = field(default_factory=dict)
    objects: np.ndarray | None = None
    measures: Measures = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)
    inputs: Measures = field(default_factory=dict)
    summaries: list[Summary] = field(default_factory=list)
    channels: Channels = RGB

    @property
    def opened(self) -> int:
        """The number of images opened for these statistics, readable or not."""
        return len(self.summaries)

    @property
    def channel_values(self) -> ChannelValues | None:
        """Channel measures (N, C) of N readable images; None for 8-bit RGB."""
        values = [summary.channels for summary in self.summaries if summary.channels is not None]
        return ChannelValues.stacked(values) if values else None


def split_statistics(
    split: str,
    dataset: Dataset,
    most_images: int | None,
    failed: set[int],
    transform: TrainingTransform | None,
    track: Track,
) -> SplitStatistics:
    """Measures a split. most_images: the number of images to open; None: all. failed: indices of unreadable images."""
    indices = [i for i in evenly_spaced(len(dataset), most_images).tolist() if i not in failed]
    samples = Summaries(dataset, indices, transform, MOST_TRANSFORMED)
    summaries = list(track(read_summaries(samples), f"Opening images of {split}", len(indices)))
    readable = [summary for summary in summaries if not summary.problem]
    counts = dataset.object_counts()
    objects = [summary.objects for summary in readable if summary.objects is not None]
    statistics = SplitStatistics(
        split,
        len(dataset),
        tuple(dataset.provides),
        _sizes(dataset, readable),
        objects=counts if counts is not None else np.array(objects) if objects else None,
        measures=_joined([summary.measures for summary in readable]),
        inputs=_joined([summary.inputs for summary in readable]),
        summaries=summaries,
        channels=dataset.channels,
    )
    types = TargetTypes.of(dataset)
    for key in {key: None for summary in readable for key in summary.counts}:
        total = np.sum([summary.counts[key] for summary in readable if key in summary.counts], axis=0)
        statistics.classes[key] = _class_counts(dataset, types, key, total, len(readable) == len(dataset))
    _add_all_objects(statistics, dataset, types)
    return statistics


@runtime_checkable
class SupportsAllObjects(Protocol):
    """A data set with all objects available without reading images, for `densevit doctor`."""

    def all_objects(self) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """The image index of each object (M,), and the values of all objects (M, ...) by target key; None: unknown."""


def _add_all_objects(statistics: SplitStatistics, dataset: Dataset, types: TargetTypes) -> None:
    """Replaces statistics of opened images by statistics of all images, if the data set has them without opening
    any."""
    all_objects, sizes = (
        dataset.all_objects() if isinstance(dataset, SupportsAllObjects) else None,
        _known_sizes(dataset),
    )
    if all_objects is None or sizes is None:
        return
    images, values = all_objects
    for key, value in values.items():
        measures = measure(types[key], value, sizes[images])
        if measures:
            statistics.measures[key] = dict(measures)
            statistics.complete.add(key)
        classes = dataset.classes.get(types[key].task or "", ())
        counts = class_counts(types[key], value, len(classes))
        if counts is not None:
            statistics.classes[key] = _class_counts(dataset, types, key, counts, complete=True)


def _class_counts(dataset: Dataset, types: TargetTypes, key: str, counts: np.ndarray, complete: bool) -> ClassCounts:
    names = tuple(category.name for category in dataset.classes[types[key].task or ""])
    return ClassCounts(names, counts, "objects" if types[key].per == "object" else "pixels", complete)


def _sizes(dataset: Dataset, readable: Sequence[Summary]) -> np.ndarray:
    """Sizes of all images, if known without opening any; else of opened images."""
    sizes = _known_sizes(dataset)
    if sizes is not None and (sizes > 1).all():
        return sizes
    return np.array([summary.size for summary in readable if summary.digest], np.int64).reshape(-1, 2)


def _known_sizes(dataset: Dataset) -> np.ndarray | None:
    """Sizes of all images without opening any; 0 if unknown."""
    return dataset.known_sizes() if isinstance(dataset, MeasuredImages) else dataset.sizes()


def _joined(measures: Iterable[Mapping[str, Mapping[str, np.ndarray]]]) -> Measures:
    """Concatenates the numbers of all images."""
    named = grouped((key, numbers) for by_key in measures for key, numbers in by_key.items())
    parts = {
        key: grouped((name, np.asarray(x, np.float64).ravel()) for by_name in images for name, x in by_name.items())
        for key, images in named.items()
    }
    return {key: {name: np.concatenate(ns) for name, ns in by_name.items()} for key, by_name in parts.items()}
