"""The splits of a data set, with their transforms and data loaders."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from densevit import registry
from densevit.config import DataSection
from densevit.data.dataset_builder import build_split
from densevit.data.datasets.mapped_classes import MappedClasses, class_order
from densevit.data.loading.batch_sampler import (
    EvaluationBatches,
    MakeOrder,
    SampleKey,
    SupportsBatchMultiple,
    SupportsEpochIndices,
    SupportsShuffled,
    TrainBatches,
    aspect_groups,
)
from densevit.data.loading.dataloader import Loader, MakeLoader, TransformedDataset
from densevit.data.loading.repeat_factors import RepeatedIndices, SupportsImageClasses, repeat_factors
from densevit.data.loading.worker_processes import workers_for
from densevit.data.sample_checks import image_sizes
from densevit.data.training_warnings import warn_of_sizes, warn_of_split
from densevit.data.transforms.augmentation_phases import AugmentationPhase, transforms_at
from densevit.data.transforms.copy_paste import CopyPaste
from densevit.data.transforms.sample_resizing import (
    EvaluationTransform,
    TrainingTransform,
    WithoutAugmentation,
)
from densevit.data.transforms.transform_builder import build_training_transform, build_transforms
from densevit.errors import ConfigError
from densevit.interfaces import Class, Dataset, Method, Sample, Size, Transforms
from densevit.layers.padding import padded
from densevit.model.training_record import TrainingRecord
from densevit.model.zoom import create_transforms
from densevit.registry.plugin_options import takes
from densevit.targets.types import TargetTypes

if TYPE_CHECKING:
    from densevit.data.transforms.image_mixing import ImageMixing
    from densevit.data.transforms.sample_augmentation import Augmentation


class DataSplits:
    """The splits of a data set and their data loaders. record: sizes and values of training images (`check_splits`).

    `train` and `val` are built on first use: evaluation reads nothing of the training split. `val` is the split named
    by `data.val_split`. Building one raises PluginError for a wrong option and DataError for wrong files.
    """

    def __init__(self, section: DataSection, seed: int, size_divisor: int | Size) -> None:
        self.section, self.seed, self.size_divisor = section, seed, size_divisor
        self.val_transform = build_transforms(section)[1]
        self.views = 1
        self.record = TrainingRecord()
        self._built: dict[str, Dataset] = {}
        self._method_transform: Callable[[TrainingTransform], TrainingTransform] = lambda transform: transform

    @property
    def train(self) -> Dataset:
        """The training split."""
        return self._split("train", "train")

    @property
    def val(self) -> Dataset:
        """The evaluated split."""
        return self._split("val", self.section.val_split)

    def _split(self, key: str, name: str) -> Dataset:
        if key not in self._built:
            self._built[key] = build_split(self.section, name)
        return self._built[key]

    @cached_property
    def _augmentation(self) -> "Augmentation | WithoutAugmentation":
        return self._augmented(self.section, self.val_transform.transforms)

    def _augmented(self, section: DataSection, transforms: Transforms) -> "Augmentation | WithoutAugmentation":
        return build_training_transform(section, transforms, self.val_transform.transforms, self.train.channels)

    @cached_property
    def config_transform(self) -> TrainingTransform:
        """The training transform of the config, at `image_size`, before the final phase."""
        return self._with_other_images(self._augmentation, self.section)

    @cached_property
    def config_phases(self) -> tuple[AugmentationPhase, ...]:
        """The training transforms of the first phase, and of the final phase if the config has one."""
        final = () if self.section.final_phase is None else (self.section.in_final_phase,)
        return tuple(self._phase(section) for section in (self.section, *final))

    def _phase(self, section: DataSection) -> AugmentationPhase:
        mixing = self._mixing(section)
        if section is self.section and section.multi_scale is None:
            return AugmentationPhase([self.config_transform], mixing)
        transforms: dict[int | None, TrainingTransform] = {}
        for size in set(section.multi_scale or (None,)):
            sized = create_transforms(section) if size is None else transforms_at(section, size)
            transform = self._augmented(section, sized)
            if section is not self.section and not transforms:  # colour changes are the same at all sizes
                self._check_labels(transform)
            transforms[size] = self._with_other_images(transform, section)
        return AugmentationPhase([transforms[size] for size in section.multi_scale or (None,)], mixing)

    def _mixing(self, section: DataSection) -> "ImageMixing | None":
        """Returns the mixing of training images. Raises ConfigError if the data set's labels cannot be mixed."""
        if section.mixup is None and section.cutmix is None:
            return None
        from densevit.data.transforms.image_mixing import ImageMixing  # late: it imports torchvision

        mixing = ImageMixing(section.mixup, section.cutmix, self.train.channels)
        mixing.check(self.provides, TargetTypes.of(self.train))
        return mixing

    def _check_labels(self, transform: "Augmentation | WithoutAugmentation") -> None:
        """Raises ConfigError if the transform moves pixels without the labels of the training split."""
        if not isinstance(transform, WithoutAugmentation):
            transform.check(self.provides, TargetTypes.of(self.train))

    def _with_other_images(self, transform: TrainingTransform, section: DataSection) -> TrainingTransform:
        if section.copy_paste is not None:
            transform = CopyPaste(transform, self.train, section.copy_paste)
        if section.mosaic is None:
            return transform
        from densevit.data.transforms.mosaic import Mosaic  # late, as above

        return Mosaic(transform, self.train, section.mosaic)

    @property
    def classes(self) -> dict[str, tuple[Class, ...]]:
        """The classes of the training split by task."""
        return self.train.classes

    @property
    def provides(self) -> tuple[str, ...]:
        """The target keys that training images are labelled with."""
        return tuple(self.train.provides)

    def padded_to(self, size_divisor: int | Size, val_transform: EvaluationTransform | None = None) -> "DataSplits":
        """Returns a copy that pads batches to `size_divisor`. It shares the splits that are already built.

        val_transform: the evaluation transform of the copy; None keeps this one.
        """
        data = copy.copy(self)
        data._built = {**self._built}
        data.size_divisor = size_divisor
        data.val_transform = self.val_transform if val_transform is None else val_transform
        return data

    def use(self, method: Method) -> None:
        """Sets the transform and the views of the training loader to the method's."""
        self.views, self._method_transform = method.views, method.transform

    def use_split(self, key: Literal["train", "val"], dataset: Dataset) -> None:
        """Replaces a split. For another training split, transforms and order are computed again."""
        is_new = key == "train" and self._built.get(key) is not dataset
        self._built[key] = dataset
        for name, value in vars(DataSplits).items() if is_new else ():
            if isinstance(value, cached_property):
                vars(self).pop(name, None)

    def use_classes(self, kept: Mapping[str, Sequence[int]]) -> None:
        """Restricts evaluation to some classes, in this order. kept: class indices by task; other tasks keep all."""
        self.use_split("val", MappedClasses(self.val, kept))

    def sort_classes(self) -> None:
        """Sorts the classes of `val` as in `train`. Raises DataError if the splits have different classes."""
        if order := class_order(self.train.classes, self.val.classes, self.section.val_split):
            self.use_classes(order)

    def check_splits(self, labels: bool = True) -> None:
        """Checks both splits. labels: whether images must have labels. If all images keep their size and have the same
        one, it is the section's `image_size` from now on, for other images.

        Warns of classes without objects and of a batch larger than the training split. Raises DataError for missing
        labels and invalid values in a few samples, and ConfigError for unsupported labels.
        """
        self._check_labels(self._augmentation)
        train_transform = self._method_transform(self.config_transform)
        records = []
        for dataset, transform in ((self.train, train_transform), (self.val, self.val_transform)):
            if labels:
                dataset.check_labels()
            records.append(self._transformed(dataset, transform, train=dataset is self.train).check_values())
        self._keep(*records)
        warn_of_split(self.train, self.section.batch_size, labels)
        _ = self.config_phases  # raises for labels that cannot be mixed

    def val_record(self) -> TrainingRecord:
        """Checks a few images of the evaluated split, as `check_splits`, and returns their sizes and values."""
        return self._transformed(self.val, self.val_transform, train=False).check_values()

    def _keep(self, train: TrainingRecord, val: TrainingRecord) -> None:
        """Keeps the record of training images, and the only size of all images, if they keep their size."""
        keeps_size = self.section.image_size is None and self.val_transform.transforms.evaluation_bounds() == {}
        is_made = self.section.train is None and takes(registry.load("datasets", self.section.name), "image_size")
        self.record = train
        if keeps_size and not is_made and len({*train.sizes, *val.sizes}) == 1:
            train.image_size = max(train.sizes[0])
            self.section = self.section.model_copy(update={"image_size": train.image_size})
        if not keeps_size or train.image_size is not None:
            train.sizes.clear()

    def train_loader(
        self, rank: int = 0, world_size: int = 1, loader: MakeLoader = Loader, order: MakeOrder = TrainBatches
    ) -> Loader:
        """Returns a resumable loader of shuffled, augmented batches, the same number for each process. loader, order:
        constructors, such as `functools.partial(Loader, batches_per_step=2)`."""
        groups = None
        if self.section.group_by_aspect:
            if self._batch_multiple > 1:
                raise ConfigError(
                    f"data.group_by_aspect: {self.section.name!r} itself composes the batches. Fix: leave it out."
                )
            sizes = image_sizes(self.train)
            if sizes is None:
                raise ConfigError(f"data.group_by_aspect: {self.section.name!r} has no image sizes. Fix: leave it out.")
            groups = aspect_groups(sizes)
        batches = self._train_batches(partial(order, rank=rank, world_size=world_size), groups)
        phases = [phase.mapped(self._method_transform) for phase in self.config_phases]
        if self.views > 1 and any(phase.mixing for phase in phases):
            raise ConfigError(
                "data.mixup and data.cutmix mix the images of a batch, but the training method takes several views of "
                "each image. Fix: leave them out."
            )
        transformed = self._transformed(self.train, phases, train=True, views=self.views)
        return self._loader(transformed, batches, world_size, loader)

    def batches_per_epoch(self, world_size: int = 1) -> int:
        """Returns the number of batches per epoch of one process's training loader."""
        return len(self._train_batches(partial(TrainBatches, world_size=world_size)))

    def val_loader(self, rank: int = 0, world_size: int = 1, loader: MakeLoader = Loader) -> Loader:
        """Returns a loader of each validation image once over all processes, in batches of one padded size."""
        return self._evaluation_loader(self.val, rank, world_size, loader)

    def unaugmented_train_loader(self, rank: int = 0, world_size: int = 1) -> Loader:
        """Returns a loader of each training image once over all processes, with the evaluation transform and the
        evaluated split's classes. Raises DataError if the training split lacks one of these classes."""
        dataset, kept = self.train, class_order(self.val.classes, self.train.classes, "train", self.section.val_split)
        return self._evaluation_loader(MappedClasses(dataset, kept) if kept else dataset, rank, world_size, Loader)

    def _evaluation_loader(self, dataset: Dataset, rank: int, world_size: int, loader: MakeLoader) -> Loader:
        sizes = image_sizes(dataset)
        warn_of_sizes(sizes, self.section)
        if sizes is not None:
            sizes = np.array([self.padded_size(height, width) for height, width in sizes.tolist()])
        batches = EvaluationBatches(len(dataset), sizes, self.section.batch_size, rank, world_size)
        return self._loader(self._transformed(dataset, self.val_transform, train=False), batches, world_size, loader)

    def evaluated_sample(self, index: int) -> Sample:
        """Returns a transformed sample of the evaluated split, with its `truth` and `dataset_index`."""
        sample = self._transformed(self.val, self.val_transform, train=False)[SampleKey(index, 0)]
        assert not isinstance(sample, list)
        return sample

    def _train_batches(self, order: MakeOrder, groups: np.ndarray | None = None) -> TrainBatches:
        indices, size, multiple = self._epoch_indices, self.section.batch_size, self._batch_multiple
        if size % multiple:
            raise ConfigError(
                f"data.batch_size is {size}; {self.section.name!r} composes batches of {multiple} images. Fix: set "
                f"data.batch_size={multiple}, or a multiple of it."
            )
        length = len(self.train) if indices is None else len(indices(0))
        shuffled = self.train.shuffled if isinstance(self.train, SupportsShuffled) else None
        return order(length, size, self.seed, groups=groups, epoch_indices=indices, shuffled=shuffled)

    @property
    def _batch_multiple(self) -> int:
        return self.train.batch_multiple if isinstance(self.train, SupportsBatchMultiple) else 1

    @cached_property
    def _epoch_indices(self) -> Callable[[int], np.ndarray] | None:
        """Returns the indices of an epoch by its number, for repeat factor sampling and for data sets that set how
        often each image occurs; None: each image once.

        Raises ConfigError if repeat factor sampling is on and the data set sets the order itself or has no image
        classes.
        """
        threshold, dataset = self.section.repeat_factor, self.train
        if threshold is None:
            return dataset.epoch_indices if isinstance(dataset, SupportsEpochIndices) else None
        if isinstance(dataset, SupportsEpochIndices):
            raise ConfigError(
                f"data.repeat_factor: {self.section.name!r} itself sets how often each image occurs in an epoch, as "
                "`mix` does by the shares of its sets. Fix: leave data.repeat_factor out."
            )
        pairs = dataset.image_classes() if isinstance(dataset, SupportsImageClasses) else None
        if pairs is None:
            raise ConfigError(
                f"data.repeat_factor: {self.section.name!r} does not know the classes of its images without reading "
                "them. Fix: leave it out, or let the data set implement image_classes(), as coco and coco_panoptic do."
            )
        return RepeatedIndices(repeat_factors(pairs, len(dataset), threshold), self.seed)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns (h, w) of the model's input for an image of this size in evaluation."""
        return padded(self.val_transform.canvas or self.val_transform.size_of(height, width), self.size_divisor)

    def _transformed(
        self,
        dataset: Dataset,
        transform: TrainingTransform | EvaluationTransform | Sequence[AugmentationPhase],
        train: bool,
        views: int = 1,
    ) -> TransformedDataset:
        return TransformedDataset(dataset, transform, train, views, self.section.on_error)

    def _loader(
        self, dataset: TransformedDataset, order: TrainBatches | EvaluationBatches, world_size: int, loader: MakeLoader
    ) -> Loader:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        return loader(dataset, order, self.size_divisor, workers_for(self.section.num_workers, len(dataset), processes))
