"""timm's "same" padding in exported models, by integers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from timm.layers import padding


@contextmanager
def integer_padding() -> Iterator[None]:
    """Computes the widths of timm's "same" padding with integer division while a model is traced.

    timm rounds a quotient of floats up, which nests size expressions deeper in each layer, until the tracer takes
    hours. With integers, the padding of a side that is a multiple of the stride is a constant.
    """
    timms = padding.get_same_padding
    padding.get_same_padding = _same_padding
    try:
        yield
    finally:
        padding.get_same_padding = timms


def _same_padding(x: int, kernel_size: int, stride: int, dilation: int) -> int:
    """timm's `get_same_padding`: the number of added cells for ceil(x / stride) outputs. x may be a symbol."""
    return cast(int, torch.sym_max((-(-x // stride) - 1) * stride + (kernel_size - 1) * dilation + 1 - x, 0))
