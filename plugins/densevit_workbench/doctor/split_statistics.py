"""Statistics of one split: classes, sizes, objects and other measures of its targets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.measured_images import MeasuredImages
from densevit.data.transforms.sample_resizing import TrainingTransform
from densevit.interfaces import Dataset
from densevit.targets.types import TargetTypes
from densevit_workbench.doctor.channels import ChannelValues
from densevit_workbench.doctor.findings import evenly_spaced
from densevit_workbench.doctor.measures import class_counts, measure
from densevit_workbench.doctor.samples import Measures, Summaries, Summary, read_summaries

MOST_TRANSFORMED = 200  # images on which the training transform is tried

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass
class ClassCounts:
    """The frequency of each class. unit: "objects" or "pixels". complete: whether all images are counted, not only
    opened ones."""

    names: tuple[str, ...]
    counts: np.ndarray
    unit: str
    complete: bool


@dataclass
class SplitStatistics:
    """Statistics of one split.

    sizes: (n, 2), height and width of images where they are known. measures: numbers by target key and name, as
    annotated; complete: the keys whose measures are of all images. inputs: the measures of `MOST_TRANSFORMED` images
    after the training transform. objects: the number of objects per image, where known. summaries: the measurements of
    the images that were opened. channels: those of the images; of train with the ranges that training uses.
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
        """The number of images that were opened."""
        return len(self.summaries)

    @property
    def channel_values(self) -> ChannelValues | None:
        """The values (N, C) of the channels of the N images that could be read; None for RGB of 8 bits."""
        values = [one.channels for one in self.summaries if one.channels is not None]
        return ChannelValues.of_images(values) if values else None


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
    readable = [one for one in summaries if not one.problem]
    sizes = _sizes(dataset, readable)
    found = SplitStatistics(
        split, len(dataset), tuple(dataset.provides), sizes, summaries=summaries, channels=dataset.channels
    )
    found.measures = _joined([one.measures for one in readable])
    found.inputs = _joined([one.inputs for one in readable])
    counts = dataset.object_counts()
    known = [one.objects for one in readable if one.objects is not None]
    found.objects = counts if counts is not None else np.array(known) if known else None
    types = TargetTypes.of(dataset)
    for key in {key: None for one in readable for key in one.counts}:
        total = np.sum([one.counts[key] for one in readable if key in one.counts], axis=0)
        found.classes[key] = _class_counts(dataset, types, key, total, len(readable) == len(dataset))
    _add_all_objects(found, dataset, types)
    return found


@runtime_checkable
class SupportsAllObjects(Protocol):
    """A data set that knows its objects without reading images, for `densevit doctor`."""

    def all_objects(self) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """The image index of each object (M,), and the values of all objects (M, ...) by target key; None: unknown."""


def _add_all_objects(found: SplitStatistics, dataset: Dataset, types: TargetTypes) -> None:
    """Replaces statistics of the opened images by statistics of all images, where the data set knows them without
    opening any."""
    known, sizes = dataset.all_objects() if isinstance(dataset, SupportsAllObjects) else None, _known_sizes(dataset)
    if known is None or sizes is None:
        return
    images, values = known
    for key, value in values.items():
        measures = measure(types[key], value, sizes[images])
        if measures:
            found.measures[key] = dict(measures)
            found.complete.add(key)
        classes = dataset.classes.get(types[key].task or "", ())
        counts = class_counts(types[key], value, len(classes))
        if counts is not None:
            found.classes[key] = _class_counts(dataset, types, key, counts, complete=True)


def _class_counts(dataset: Dataset, types: TargetTypes, key: str, counts: np.ndarray, complete: bool) -> ClassCounts:
    names = tuple(one.name for one in dataset.classes[types[key].task or ""])
    return ClassCounts(names, counts, "objects" if types[key].per == "object" else "pixels", complete)


def _sizes(dataset: Dataset, readable: Sequence[Summary]) -> np.ndarray:
    """The sizes of all images, if they are known without opening them, else of the opened ones."""
    sizes = _known_sizes(dataset)
    if sizes is not None and (sizes > 1).all():
        return sizes
    return np.array([one.size for one in readable if one.digest], np.int64).reshape(-1, 2)


def _known_sizes(dataset: Dataset) -> np.ndarray | None:
    """The sizes of all images without opening any; 0 where they are unknown."""
    return dataset.known_sizes() if isinstance(dataset, MeasuredImages) else dataset.sizes()


def _joined(measures: Iterable[Mapping[str, Mapping[str, np.ndarray]]]) -> Measures:
    """Concatenates the numbers of all images."""
    parts: dict[str, dict[str, list[np.ndarray]]] = {}
    for one in measures:
        for key, named in one.items():
            for name, numbers in named.items():
                parts.setdefault(key, {}).setdefault(name, []).append(np.asarray(numbers, np.float64).ravel())
    return {key: {name: np.concatenate(ns) for name, ns in named.items()} for key, named in parts.items()}
