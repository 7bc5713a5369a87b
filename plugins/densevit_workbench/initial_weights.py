"""The weights from which a config's training starts, in tables and findings."""

from densevit.config import Config
from densevit.config.values import RANDOM


def initial_weights(config: Config) -> str:
    """The name or file of the backbone's pretrained weights; "random" without pretrained weights.

    An option `pretrained`, as of the timm backbone, marks a backbone that loads weights in its constructor.
    """
    options = config.backbone.options
    source, pretrained = config.backbone.weights or config.weights, options.get("pretrained")
    if source or not pretrained:
        return source or RANDOM
    return pretrained if isinstance(pretrained, str) else f"{options.get('model', config.backbone.name)}, pretrained"
