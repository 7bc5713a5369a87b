"""Models of configs with random weights."""

from collections.abc import Mapping, Sequence

from densevit.config import Config
from densevit.data.channel_statistics import with_channels
from densevit.interfaces import Class, Dataset
from densevit.model import DenseModel, build_from_sections, classes_by_head


def build_model(
    config: Config, classes: Mapping[str, Sequence[Class]] | Dataset, pretrained: bool = True
) -> DenseModel:
    """The model of a config. classes: those of each task; or the data set, which also sets the channels of images."""
    if isinstance(classes, Dataset):
        config = with_channels(config, classes)
    return build_from_sections(config, classes_by_head(config, classes), pretrained)
