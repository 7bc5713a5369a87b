"""The interface of data sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densevit.interfaces.data_types import Class, Sample
from densevit.interfaces.target_types import TargetType


class Dataset:
    """Images with targets in original pixels. The framework resizes, augments and batches them.

    The constructor takes `split`, its own options, and optionally `image_size` and `scan`, a
    `densevit.data.datasets.dataset_validation.Scan`, which is no option of the user's: how to check the files.
    split: "train", "val" or another name of the data set's. Raises DataError, with the splits that there are, for one
        that does not exist.
    classes: the classes of each task: things for "detection", things and stuff for "segmentation".
    provides: the target keys that are labelled, see `Targets`; or a mapping from these keys to their types. Keys
        without a type have the registered type of that name.
    batch_multiple: `data.batch_size` must be a multiple of it, because `shuffled` composes batches of this size.
    metric: whether `depth` is in metres; False if its unit is unknown.
    division: how the images of a data set without a val split were divided; printed at the start of a training.
    conversion: what was read of a data set in another format; printed at the start of a training.
    """

    classes: dict[str, tuple[Class, ...]]
    provides: "tuple[str, ...] | Mapping[str, TargetType | None]"
    batch_multiple: int = 1
    metric: bool = True
    division: str = ""
    conversion: str = ""

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} is a Dataset and must implement __len__.")

    def __getitem__(self, index: int) -> Sample:
        """Returns a sample in original pixels, with `image_id`; deterministic, and the same in all processes."""
        raise NotImplementedError(f"{type(self).__name__} is a Dataset and must implement __getitem__.")

    def check_labels(self) -> None:
        """Raises DataError if no image has a label, so that training or evaluation is impossible. Default: no check.

        Called before training, for the training and the evaluation split.
        """

    def image_name(self, index: int) -> str | None:
        """The file name of an image, used in reports, tables and visualizations. Default: None, to use `image_id`."""
        return None

    def sizes(self) -> np.ndarray | None:
        """Heights and widths (N, 2), if known without reading images; evaluation then batches equal sizes."""
        return None

    def object_counts(self) -> np.ndarray | None:
        """Objects per image (N,), if known without reading images, else None.

        Heads with a fixed number of queries use it in `Head.check` to warn if an image has more objects.
        """
        return None

    def image_classes(self) -> np.ndarray | None:
        """Pairs (P, 2) of the index of an image and the index of a class in it, for `data.repeat_factor`, if known
        without reading images. The order and repetitions of pairs do not matter; an image without objects has none."""
        return None

    def all_objects(self) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """The image index of each object (M,), and the values of all objects (M, ...) by target key, for `densevit
        doctor`. None if not known without reading images."""
        return None

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """The options besides `root` with which this data set reads a folder, for `densevit doctor FOLDER`. None if the
        folder does not have the data set's layout. Default: None."""
        return None

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """Indices of this training epoch, (M,) int64, with the same M in every epoch. Default: each index once.

        Indices may be repeated; each occurrence is augmented differently.
        """
        return np.arange(len(self))

    def shuffled(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Returns the indices of an epoch in the order of training. Default: None, a random order.

        For data sets that are faster to read in another order, or whose batches have a fixed composition.
        """
        return None
