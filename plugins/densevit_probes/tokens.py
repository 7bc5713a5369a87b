"""Image sizes at which backbones with other patches have equally many tokens."""

from math import lcm

from densevit.errors import ConfigError
from densevit.interfaces import Backbone


def image_size_for(backbone: Backbone, tokens: int) -> int:
    """The side of square images whose last feature map has `tokens` x `tokens` cells, without padding.

    Labels keep their size: patch probes predict for the original image. Raises ConfigError if there is no such size.
    """
    stride, multiple, fixed = backbone.strides[-1], backbone.size_multiple or 1, backbone.input_size
    size = tokens * stride
    problem = ""
    if tokens < 1:
        problem, fix = "at least 1 is expected", "--tokens 16"
    elif fixed is not None and fixed != (size, size):
        problem = f"the backbone takes images of {fixed[0]}x{fixed[1]} only"
        fix = f"backbone.image_size={size} for a backbone with this option"
    elif size % multiple:
        possible = lcm(stride, multiple)
        problem = f"images are padded to multiples of {multiple}"
        fix = f"--tokens {max(1, round(size / possible)) * possible // stride}"
    if problem:
        raise ConfigError(
            f"{tokens}x{tokens} tokens of {stride} pixels need images of {size}x{size}, but {problem}. Fix: {fix}."
        )
    return size
