"""Concatenates data sets with different labels, sampled by share."""

from collections.abc import Collection, Mapping
from itertools import chain
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from densevit import registry
from densevit.channels import RGB, Channels
from densevit.config.config_layers import ConfigLayer
from densevit.config.schema_validation import validated
from densevit.config.values import BY_NAME, ConfigType, Float, Int, Patterns, PluginSection
from densevit.data.datasets.file_checks import OnError, check_files
from densevit.data.datasets.partly_labelled import PartlyLabelled, joined_classes
from densevit.data.sample_checks import image_sizes
from densevit.errors import DataError, listed
from densevit.interfaces import Class, Dataset, Sample, Targets
from densevit.registry.plugin_options import takes
from densevit.targets.types import TargetTypes, registered_tasks

_LONGEST_EPOCH = 10**8  # images
_LISTED = 6, " ... ({})"  # classes of a set in a message, and the number of all


class SetSection(PluginSection):
    """A set, with the keys that `Mix` reads and the options of its plugin; see there."""

    share: Annotated[Float, Field(gt=0)] | None = None
    per_batch: Annotated[Int, Field(gt=0)] | None = None
    provides: list[str] | None = None
    labelled_classes: Patterns = ()


Sets = Annotated[dict[str, Annotated[SetSection, "datasets"]], BY_NAME]


class Mix(Dataset):
    """The images of several data sets, each with the target keys that its set labels.

    sets: a data section for each name, `{name: coco, root: ...}`: the plugin and its options, and four more keys.
        share: the set's share of training samples, by default its share of the images. An epoch contains each image of
            each set at least once, and the images of a set equally often up to one occurrence. Which images occur once
            more changes from epoch to epoch, so that all occur equally often in the long run.
        per_batch: the number of the set's images in each batch of each process, instead of `share`. The numbers of all
            sets add up to `data.batch_size` or a divisor of it.
        provides: the target keys to use, `[semantic]`; by default all. `[]`: the set's images are used without labels,
            in training only.
        labelled_classes: the set's `data.labelled_classes`, `[cat]`; by default all of its classes.
    image_size: passed to the sets that have this option and do not set it.

    Shares are for training; validation contains every image of each set once. Two sets that label the same task must
    have the same classes; with `labelled_classes`, the mix has the classes of both. `image_id` is NAME/ID: the set's
    name and the image's id in the set.
    """

    batch_multiple: int = 1

    def __init__(
        self,
        split: str,
        sets: Annotated[dict[str, dict[str, Any]], ConfigType(Sets)],
        image_size: int | tuple[int, int] | None = None,
        *,
        on_error: OnError = "raise",
        channels: Channels = RGB,
    ) -> None:
        if not sets:
            raise DataError(
                "data.sets is empty: name the data sets to mix, as in `sets: {a: {name: coco, root: ...}}`."
            )
        self._names: list[str] = []
        self._sets: list[Dataset] = []
        self._kept: list[tuple[str, ...]] = []
        mix_options = {
            name: validated(SetSection, ConfigLayer({**section}, f"data.sets.{name}")) for name, section in sets.items()
        }
        for name, section in mix_options.items():
            if "/" in name:  # "a" with the image b/0, and "a/b" with the image 0, would have one id
                raise DataError(f"data.sets.{name}: the name of a set has no slash, as image ids are NAME/ID.")
            plugin, chosen, options = section.name, section.provides, section.options
            if chosen == [] and split != "train":
                continue
            if image_size is not None and takes(registry.load("datasets", plugin), "image_size"):
                options.setdefault("image_size", image_size)
            where = f"data.sets.{name}"
            offered = {"on_error": on_error, "channels": channels}
            dataset = registry.create("datasets", plugin, split, options=options, where=where, offered=offered)
            self._kept.append(_chosen(dataset.provides, chosen, name))
            self._names.append(name)
            self._sets.append(dataset)
        shares = {name: options.share for name, options in mix_options.items() if options.share is not None}
        numbers = {name: options.per_batch for name, options in mix_options.items() if options.per_batch is not None}
        for key, named_sets in (("share", shares.keys()), ("per_batch", numbers.keys())):
            if named_sets and len(named_sets) < len(sets):
                lacking = next(name for name in sets if name not in named_sets)
                raise DataError(f"data.sets.{lacking}.{key} is missing: give each set a {key}, or none of them.")
        if shares and numbers:
            raise DataError("data.sets has both share and per_batch, which sets the shares too. Fix: remove one.")
        if not self._sets:
            raise DataError(
                f"data.sets: no set has labels for the split {split!r}, as all have `provides: []`. Fix: leave "
                "`provides` out of one."
            )
        self.channels = self._sets[0].channels
        for name, dataset in zip(self._names, self._sets, strict=True):
            if dataset.channels != self.channels:
                raise DataError(
                    f"data.sets.{name} has images of {dataset.channels}; those of {self._names[0]} are "
                    f"{self.channels}. Fix: mix sets of the same channels."
                )
        if any(section.labelled_classes for section in mix_options.values()):
            self._join_partly_labelled(mix_options)
        self._types = [TargetTypes.of(dataset) for dataset in self._sets]
        self.provides = {
            key: types.get(key) for types, keys in zip(self._types, self._kept, strict=True) for key in keys
        }
        self.classes = self._joined_classes()
        self._names_of_classes = list(dict.fromkeys(c.name for classes in self.classes.values() for c in classes))
        self.metric = all(
            dataset.metric for dataset, keys in zip(self._sets, self._kept, strict=True) if "depth" in keys
        )
        self.division = "\n".join(dataset.division for dataset in self._sets if dataset.division)
        self.conversion = "\n".join(dataset.conversion for dataset in self._sets if dataset.conversion)
        self._lengths = np.array([len(dataset) for dataset in self._sets])
        if not self._lengths.all():
            empty = self._names[int(self._lengths.argmin())]
            raise DataError(f"data.sets.{empty} has no images for the split {split!r}; at least 1 is needed.")
        counts = self._lengths
        self._per_batch = list(numbers.values()) if split == "train" else []
        if self._per_batch:
            self.batch_multiple = sum(self._per_batch)
            counts = max(-(-self._lengths // self._per_batch)) * np.array(self._per_batch)
        elif shares and split == "train":
            counts = _counts(self._lengths, list(shares.values()))
        times = counts // self._lengths
        self._surplus = counts - times * self._lengths  # images of each set that occur once more in an epoch
        self._ends = np.cumsum(times * self._lengths)
        self._begins = self._ends - times * self._lengths

    def __len__(self) -> int:
        """The number of indices. Each image of a set has as many indices as its minimum number of occurrences."""
        return int(self._ends[-1])

    def check_files(self, on_error: OnError = "raise") -> None:
        """Checks the files of each set."""
        for dataset in self._sets:
            check_files(dataset, on_error)

    def check_labels(self) -> None:
        """Raises DataError if no set has labels; some sets may be background images without labels."""
        errors = []
        for dataset in self._sets:
            try:
                dataset.check_labels()
            except DataError as error:
                errors.append(error)
        if len(errors) == len(self._sets):
            raise errors[0]

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """Returns (M,): every index once, and the images that occur once more in this epoch.

        The latter follow a fixed permutation of each set: the next epoch continues where this epoch ends.
        """
        chosen = [np.arange(len(self))]
        for number, (begin, length, surplus) in enumerate(zip(self._begins, self._lengths, self._surplus, strict=True)):
            turns = (epoch * surplus + np.arange(surplus)) % length
            chosen.append(begin + np.random.default_rng(number).permutation(length)[turns])
        return np.concatenate(chosen)

    def shuffled(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """With `per_batch`, orders the indices so that each group of `batch_multiple` contains these numbers of images
        of each set; None without it."""
        if not self._per_batch:
            return None
        sets = np.searchsorted(self._ends, indices, side="right")
        rows = [indices[sets == number].reshape(-1, images) for number, images in enumerate(self._per_batch)]
        return np.concatenate(rows, axis=1).ravel()

    def __getitem__(self, index: int) -> Sample:
        """Returns a sample of a set, with the target keys to use from this set."""
        number, image = self._locate(index)
        sample = self._sets[number][image]
        kept, types = self._kept[number], self._types[number]
        dropped = {key for key in self._sets[number].provides if key not in kept}
        per_object = {key for key in (*kept, *sample["targets"]) if key in types and types[key].per == "object"}
        if per_object.isdisjoint(kept):
            dropped |= per_object  # areas and crowds
        targets: Targets = {key: value for key, value in sample["targets"].items() if key not in dropped}
        targets["image_id"] = f"{self._names[number]}/{targets['image_id']}"
        if "labelled" in self.provides:
            targets.setdefault("labelled", self._names_of_classes)
        return {"image": sample["image"], "targets": targets}

    def image_files(self) -> list[str]:
        """Returns the files of all sets."""
        return [file for dataset in self._sets for file in dataset.image_files()]

    def image_name(self, index: int) -> str | None:
        """Returns NAME/IMAGE; None if the set has no image names."""
        number, image = self._locate(index)
        name = self._sets[number].image_name(image)
        return None if name is None else f"{self._names[number]}/{name}"

    def sizes(self) -> np.ndarray | None:
        """Returns (N, 2) heights and widths; None unless all sets have them."""
        sizes_by_set = [image_sizes(dataset) for dataset in self._sets]
        if any(sizes is None for sizes in sizes_by_set):
            return None
        numbers, places = self._places(np.arange(len(self)))
        first = np.cumsum([0, *self._lengths[:-1]])
        return np.concatenate([sizes for sizes in sizes_by_set if sizes is not None])[first[numbers] + places]

    def object_counts(self) -> np.ndarray | None:
        """Returns the objects per image of the sets that have these counts, in arbitrary order."""
        counts_by_set = [counts for dataset in self._sets if (counts := dataset.object_counts()) is not None]
        return np.concatenate(counts_by_set) if counts_by_set else None

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"The mix has images 0 to {len(self) - 1}, not {index}.")
        number, image = self._places(np.array(index))
        return int(number), int(image)

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the set of each index, and the image's index in it."""
        numbers = np.searchsorted(self._ends, indices, side="right")
        return numbers, (indices - self._begins[numbers]) % self._lengths[numbers]

    def _join_partly_labelled(self, sections: Mapping[str, SetSection]) -> None:
        """Gives each set the classes of all sets, and its images the classes that are labelled in them."""
        classes: dict[str, tuple[Class, ...]] = {}
        for dataset, keys in zip(self._sets, self._kept, strict=True):
            for task in _labelled_tasks(dataset, keys):
                classes[task] = joined_classes(classes.get(task, ()), dataset.classes[task])
        for i, (name, dataset) in enumerate(zip(self._names, self._sets, strict=True)):
            names = sections[name].labelled_classes or dict.fromkeys(c.name for c in chain(*dataset.classes.values()))
            self._sets[i] = PartlyLabelled(dataset, names, f"data.sets.{name}.labelled_classes", classes)
            self._kept[i] = tuple(dict.fromkeys((*self._kept[i], "labelled"))) if self._kept[i] else ()

    def _joined_classes(self) -> dict[str, tuple[Class, ...]]:
        """Returns each task's classes, from the sets that label it. Raises DataError if two sets differ."""
        joined: dict[str, tuple[str, tuple[Class, ...]]] = {}
        for name, dataset, keys in zip(self._names, self._sets, self._kept, strict=True):
            for task in _labelled_tasks(dataset, keys):
                classes = dataset.classes[task]
                first, first_classes = joined.setdefault(task, (name, classes))
                first_names, names = ([c.name for c in every] for every in (first_classes, classes))
                if first_names != names:
                    raise DataError(
                        f"data.sets: {first!r} and {name!r} both label {task}, with different classes: "
                        f"{listed(first_names, *_LISTED)} and {listed(names, *_LISTED)}. Fix: use the same "
                        "classes, give `labelled_classes`, or leave out the labels of one set with `provides`."
                    )
        return {task: classes for task, (_, classes) in joined.items()}


def _labelled_tasks(dataset: Dataset, keys: Collection[str]) -> list[str]:
    """The tasks of a set's classes but those whose target keys are not used."""
    types = TargetTypes.of(dataset)
    unlabelled = registered_tasks() - {types[key].task for key in keys if key in types}
    return [task for task in dataset.classes if task not in unlabelled]


def _chosen(provided: Collection[str], chosen: list[str] | None, name: str) -> tuple[str, ...]:
    if chosen is None:
        return tuple(provided)
    if not set(chosen) <= set(provided):
        labelled = ", ".join(provided) or "nothing"
        raise DataError(f"data.sets.{name}.provides is {chosen}; this set labels {labelled}: list some of it, or [].")
    return tuple(key for key in provided if key in (*chosen, "labelled"))


def _counts(lengths: np.ndarray, shares: list[float]) -> np.ndarray:
    """Returns the number of images of each set in an epoch: proportional to the shares, each image at least once."""
    weights = np.array(shares)
    counts = np.rint(weights * (lengths / weights).max())
    if counts.sum() > _LONGEST_EPOCH:
        raise DataError(
            f"data.sets: the shares {', '.join(f'{share:g}' for share in shares)} make an epoch of {counts.sum():.3g} "
            f"images, with each image at least once; at most {_LONGEST_EPOCH:,} are supported. Use closer shares."
        )
    return counts.astype(int)
