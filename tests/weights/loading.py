"""A small model with the weights that its config names."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import nn

from densevit import config as configs
from densevit.config import Config
from densevit.interfaces import Backbone, Class, Head
from densevit.model import DenseModel, classes_by_head
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.pretrained_models import build_pretrained
from densevit.weights.state_dict_loading import StateDictMatch
from tests.built_models import build_model

CLASSES = (Class("cat", 17, (255, 0, 9)), Class("hot dog", 58, (0, 255, 1)))
SCORES = {"name": f"{__name__}:Scores"}


class Small(Backbone):
    """One convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 4, 4), nn.GroupNorm(2, 4)
        self.channels, self.strides = (4,), (4,)

    def forward(self, images):
        return [self.norm(self.conv(images))]


class Scores(Head):
    """A layer independent of the classes, and one that depends on them."""

    task = "detection"
    required_targets = ()

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.hidden, self.label_head = nn.Linear(channels[-1], 5), nn.Linear(5, len(classes) + 1)

    def forward(self, features, padding_mask, targets=None):
        return {"logits": self.label_head(self.hidden(features[-1].mean((2, 3))))}


def built(
    config: Config, classes: Mapping[str, Sequence[Class]], checkpoints: Mapping[str, Checkpoint] = MappingProxyType({})
) -> tuple[DenseModel, Config, list[StateDictMatch]]:
    """The model, its final config, and a report of each file. classes: by task."""
    model, fits = build_pretrained(config, classes_by_head(config, classes), checkpoints)
    assert isinstance(model.sections, Config)
    return model, model.sections, fits


def config_of(backbone=None, heads=None, **sections):
    return configs.from_mapping(
        {
            "backbone": {"name": f"{__name__}:Small", **(backbone or {})},
            "heads": heads or {"boxes": SCORES},
            "data": {"name": "scenes", "image_size": 32},
            "trainer": {"max_steps": 1},
            **sections,
        }
    )


def model_of(backbone=None, heads=None, **sections):
    """A model with random weights."""
    return build_model(config_of(backbone, heads, **sections), {"detection": CLASSES})


def loaded(*arguments, classes=CLASSES, **sections):
    """A model with its weights, its final config, and the reports."""
    return built(config_of(*arguments, **sections), {"detection": classes})
