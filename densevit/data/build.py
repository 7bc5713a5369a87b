"""From a config's `data` section to data sets, transforms and loaders."""

import os
from dataclasses import dataclass

import numpy as np

from densevit import registry
from densevit.config import Config, DataSection, data_options
from densevit.data.batching import EvaluationBatches, TrainBatches, aspect_groups, padded
from densevit.data.pipeline import Loader, Prepared, workers_for
from densevit.data.transforms import Evaluation, Training, Unaugmented, build_evaluation
from densevit.errors import ConfigError, DataError
from densevit.interfaces import Class, Dataset


def build_data(config: Config, multiple: int = 32) -> "Data":
    """Builds both splits of the data set that `config.data` names. multiple: what batches are padded to.

    Raises ConfigError and PluginError for a wrong option, DataError for wrong files and splits whose classes differ.
    """
    section = config.data
    given = data_options(section)
    train, val = (
        registry.create("datasets", section.name, split, options=given, where="data") for split in ("train", "val")
    )
    _check_classes(train.classes, val.classes)
    return Data(train, val, *build_transforms(section), section, config.seed, multiple)


def build_transforms(section: DataSection) -> tuple[Training, Evaluation]:
    """The training and the evaluation transform of a config's data section."""
    evaluation = build_evaluation(section)
    if section.recipe == "resize":
        return Unaugmented(evaluation), evaluation
    from densevit.data.augmentation import Augmentation  # late: albumentations takes a second to import

    return Augmentation(evaluation.recipe, section.rotation or 0.0), evaluation


@dataclass(frozen=True)
class Data:
    """A data set's two splits, and loaders for them. classes, provides: training's, which validation shares."""

    train: Dataset
    val: Dataset
    train_transform: Training
    val_transform: Evaluation
    section: DataSection
    seed: int
    multiple: int

    @property
    def classes(self) -> dict[str, tuple[Class, ...]]:
        """By task."""
        return self.train.classes

    @property
    def provides(self) -> tuple[str, ...]:
        """The target keys that training pictures are labelled with."""
        return self.train.provides

    def train_loader(self, rank: int = 0, world_size: int = 1) -> Loader:
        """Shuffled, augmented batches for one of `world_size` processes, the same number for each; resumable."""
        groups = None
        if self.section.group_by_aspect:
            sizes = self.train.sizes()
            if sizes is None:
                name = self.section.name
                raise ConfigError(f"data.group_by_aspect: {name!r} does not know its pictures' sizes. Leave it out.")
            groups = aspect_groups(sizes)
        batches = self._train_batches(rank, world_size, groups)
        return self._loader(Prepared(self.train, self.train_transform, train=True), batches, world_size)

    def batches_an_epoch(self, world_size: int = 1) -> int:
        """What one training loader hands out."""
        return len(self._train_batches(0, world_size))

    def val_loader(self, rank: int = 0, world_size: int = 1) -> Loader:
        """Each validation picture once over all processes, in batches of one padded size."""
        sizes = self.val.sizes()
        if sizes is not None:
            sizes = np.array([self._padded(height, width) for height, width in sizes.tolist()])
        batches = EvaluationBatches(len(self.val), sizes, self.section.batch_size, rank, world_size)
        return self._loader(Prepared(self.val, self.val_transform, train=False), batches, world_size)

    def _train_batches(self, rank: int, world_size: int, groups: np.ndarray | None = None) -> TrainBatches:
        indices, size = self.train.epoch_indices, self.section.batch_size
        return TrainBatches(len(indices(0)), size, self.seed, rank, world_size, groups, indices)

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        return padded(self.val_transform.canvas or self.val_transform.size_of(height, width), self.multiple)

    def _loader(self, prepared: Prepared, batches: "TrainBatches | EvaluationBatches", world_size: int) -> Loader:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        return Loader(prepared, batches, self.multiple, workers_for(self.section.num_workers, len(prepared), processes))


def _check_classes(train: dict[str, tuple[Class, ...]], val: dict[str, tuple[Class, ...]]) -> None:
    """Raises DataError unless both splits have the same classes under the same ids."""
    for task in train.keys() | val.keys():
        of_train = {(c.file_id, c.name) for c in train.get(task, ())}
        of_val = {(c.file_id, c.name) for c in val.get(task, ())}
        if of_train != of_val:
            only = [
                f"only in {split}: {', '.join(f'{name!r} (id {file_id})' for file_id, name in sorted(own)[:5])}"
                for split, own in (("train", of_train - of_val), ("val", of_val - of_train))
                if own
            ]
            raise DataError(
                f"The splits train and val have different classes for {task}; {'; '.join(only)}. "
                "Give both annotation files the same categories, also those of which a split has no object."
            )
