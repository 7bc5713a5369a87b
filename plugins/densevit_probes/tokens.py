"""Image sizes at which backbones with other patches have equally many tokens."""

from math import lcm

from densevit import config as configs
from densevit.config import Config
from densevit.data.transforms.sample_resizing import build_evaluation_transform
from densevit.errors import ConfigError
from densevit.interfaces import Backbone
from densevit.model.model_factory import backbone_from


def with_tokens(config: Config, backbone: Backbone | None, tokens: int) -> Config:
    """The config at the image size at which the last map has `tokens` x `tokens` cells.

    backbone: None: that of the config. Raises ConfigError if there is no such size, and if images are not stretched.
    """
    size = image_size_for(backbone or backbone_from(config.backbone, pretrained=False), tokens)
    values = config.model_dump()
    config = configs.from_mapping({**values, "data": {**values["data"], "image_size": size}}, "--tokens")
    if build_evaluation_transform(config.data).size_of(100, 200) != (size, size):
        raise ConfigError(
            f"data.transforms is {config.data.transforms.name} and keeps the shape of images, which then have other "
            f"than {tokens}x{tokens} tokens. Fix: data.transforms={{name: resize, stretch: true}}."
        )
    return config


def image_size_for(backbone: Backbone, tokens: int) -> int:
    """The side of square images whose last feature map has `tokens` x `tokens` cells, without padding.

    Labels keep their size: patch probes predict for the original image. Raises ConfigError if there is no such size.
    """
    stride, size_divisor, fixed = backbone.strides[-1], backbone.size_divisor or 1, backbone.input_size
    size = tokens * stride
    problem = ""
    if tokens < 1:
        problem, fix = "at least 1 is expected", "--tokens 16"
    elif fixed is not None and fixed != (size, size):
        problem = f"the backbone takes images of {fixed[0]}x{fixed[1]} only"
        fix = f"backbone.image_size={size} for a backbone with this option"
    elif size % size_divisor:
        possible = lcm(stride, size_divisor)
        problem = f"images are padded to multiples of {size_divisor}"
        fix = f"--tokens {max(1, round(size / possible)) * possible // stride}"
    if problem:
        raise ConfigError(
            f"{tokens}x{tokens} tokens of {stride} pixels need images of {size}x{size}, but {problem}. Fix: {fix}."
        )
    return size
