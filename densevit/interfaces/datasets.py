"""The interface of data sets."""

from collections.abc import Mapping

import numpy as np

from densevit.channels import RGB, Channels
from densevit.interfaces.data_types import Class, Sample
from densevit.interfaces.target_types import TargetType


class Dataset:
    """Images with targets in original pixels. The framework resizes, augments and batches them.

    What only a tool calls, such as `densevit doctor`, is a protocol beside that tool: docs/own-dataset.md.

    The constructor takes `split`, its own options, and optionally `image_size`. A method `check_file(index)`, if there
    is one, is called for each image before a training.
    split: "train", "val" or another name of the data set's. Raises DataError, with the splits that there are, for one
        that does not exist.
    classes: the classes of each task: things for "detection", things and stuff for "segmentation".
    provides: the target keys that are labelled, see `Targets`; or a mapping from these keys to their types. Keys
        without a type have the registered type of that name.
    channels: what images are made of; RGB of 8 bits by default. Of other channels, mean and standard deviation are
        measured on the training images, and so is a range that is (). A constructor that takes `channels` gets those of
        the config (`data.channels`, `data.range`), and `channels_of_files` completes them.
    metric: whether `depth` is in metres; False if its unit is unknown.
    division: how the images of a data set without a val split were divided; printed at the start of a training.
    conversion: what was read of a data set in another format; printed at the start of a training.
    """

    classes: dict[str, tuple[Class, ...]]
    provides: "tuple[str, ...] | Mapping[str, TargetType | None]"
    channels: Channels = RGB
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
