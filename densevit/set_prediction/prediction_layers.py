"""The prediction heads: class logits, and the offsets of a box to a reference."""

import math
from collections.abc import Callable

from torch import nn

from densevit.layers.mlp import Mlp

PRIOR = 0.01  # initial probability of each class (RetinaNet, Lin et al. 2017, section 4.1)
EPS = 1e-5


def label_head(width: int, num_classes: int) -> nn.Linear:
    """Logits of K classes, all with the prior probability."""
    head = nn.Linear(width, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - PRIOR) / PRIOR))
    return head


def box_head(width: int, size_bias: float = 0.0, activation: Callable[[], nn.Module] = nn.ReLU) -> Mlp:
    """Offsets of a box to its reference, as logits: 0 for the centre, `size_bias` for width and height."""
    head = Mlp(width, width, 4, 3, activation)
    nn.init.zeros_(head.last.weight)
    nn.init.zeros_(head.last.bias)
    nn.init.constant_(head.last.bias[2:], size_bias)
    return head
