"""`Head.finest_stride`: the stride from which on a head takes features."""

import inspect
from typing import Any

import pytest

from densevit import registry
from densevit.model.meta_device import built_on_meta
from tests.heads.cases import CASES, CLASSES


def built(case: str, strides: tuple[int, ...]) -> Any:
    head, options, *_ = CASES[case]
    classes = () if registry.load("heads", head).task == "depth" else CLASSES
    return built_on_meta(
        lambda: registry.create("heads", head, (32,) * 4, strides, classes, options=options, where="test")
    )


@pytest.mark.parametrize("case", CASES)
def test_heads_of_strides_and_of_masks_at_the_finest_one_name_it(case: str) -> None:
    """An option `stride` or `min_stride` is the finest; a mask head of the finest feature's resolution has one."""
    head, pyramid = built(case, (16,) * 4), built(case, (4, 8, 16, 32))
    arguments = {
        name: p.default if isinstance(p.default, int) else None
        for name, p in inspect.signature(type(head)).parameters.items()
        if name in ("stride", "min_stride")
    }
    for name, default in arguments.items():
        assert head.finest_stride == pyramid.finest_stride == CASES[case].options.get(name, default)
    if not arguments and getattr(head, "mask_stride", 4) > getattr(pyramid, "mask_stride", 4) and not head.last_blocks:
        assert pyramid.mask_stride == head.finest_stride
