"""A model with the weights that its config names."""

from collections.abc import Mapping, Sequence

from densevit.config import Config
from densevit.interfaces import Class
from densevit.model import DenseModel, classes_by_head
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.pretrained_models import build_pretrained
from densevit.weights.resolving import NO_FILES
from densevit.weights.state_dict_loading import StateDictMatch


def built(
    config: Config, classes: Mapping[str, Sequence[Class]], checkpoints: Mapping[str, Checkpoint] = NO_FILES
) -> tuple[DenseModel, Config, list[StateDictMatch]]:
    """The model, its final config, and a report of each file. classes: by task."""
    model, fits = build_pretrained(config, classes_by_head(config, classes), checkpoints)
    assert isinstance(model.sections, Config)
    return model, model.sections, fits
