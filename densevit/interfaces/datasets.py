"""The interface of data sets."""

from collections.abc import Mapping, Sequence

import numpy as np

from densevit.channels import RGB, Channels
from densevit.constructor_call import Recorded
from densevit.interfaces.data_types import Class, Sample
from densevit.interfaces.target_types import TargetType


class Dataset(Recorded):
    """Images with targets in original pixels. The framework resizes, augments and batches them.

    Methods that only a tool calls, such as `densevit doctor`, are protocols: docs/own-dataset.md.

    The constructor takes `split`, the data set's options, and optionally `image_size`. An optional method
    `check_file(index)` is called for each image before training.
    split: "train", "val" or another name. Raises DataError, listing the splits, for a split that does not exist.
    classes: the classes of each task: things for "detection", things and stuff for "segmentation".
    provides: the labelled target keys (`Targets`); or a mapping from these keys to their types. Keys without a type
        have the registered type of their name.
    channels: the images' channels; 8-bit RGB by default. For other channels, mean, standard deviation and a range of ()
        are measured on the training images. A constructor with the parameter `channels` gets the config's
        (`data.channels`, `data.range`), and `channels_of_files` completes them.
    metric: whether `depth` is in metres; False if its unit is unknown.
    division: how images without a val split were divided; printed when a run starts.
    conversion: what was read of a data set in another format; printed when a run starts.

    Example:
        >>> class EveryTenth(densevit.Dataset):
        ...     def __init__(self, data): self.data, self.classes, self.provides = data, data.classes, data.provides
        ...     def __len__(self): return len(self.data) // 10
        ...     def __getitem__(self, index): return self.data[10 * index]
        >>> EveryTenth(densevit.create_dataset("scenes", image_size=64))[3]["image"].shape
        torch.Size([3, 64, 64])
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
        """A sample in original pixels, with `image_id`; deterministic, and the same in all processes."""
        raise NotImplementedError(f"{type(self).__name__} is a Dataset and must implement __getitem__.")

    def check_labels(self) -> None:
        """Raises DataError if no image has a label, so that training or evaluation is impossible. Default: no check.

        Called before training, for the training and the evaluation split.
        """

    def image_name(self, index: int) -> str | None:
        """The file name of an image in reports, tables and visualizations. Default: None, to use `image_id`."""
        return None

    def image_files(self) -> Sequence[str]:
        """The files of the images: training compares those of its splits. Default: none."""
        return ()

    def sizes(self) -> np.ndarray | None:
        """Heights and widths (N, 2), if known without reading images; evaluation then batches equal sizes."""
        return None

    def object_counts(self) -> np.ndarray | None:
        """Objects per image (N,), if known without reading images, else None.

        `Head.check` warns if an image has more objects than the head predicts.
        """
        return None


class WrappedDataset(Dataset):
    """A data set with the images of another one, whose attributes and methods it has unless a subclass defines them."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        methods = [name for name in dir(dataset) if callable(getattr(type(dataset), name, None))]
        for name in {*Dataset.__annotations__, *vars(dataset), *methods}:  # also optional methods, as `check_files`
            is_inherited = getattr(type(self), name, None) is getattr(Dataset, name, None)
            if is_inherited and name[0] != "_" and name not in vars(self):
                setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return len(self.dataset)
