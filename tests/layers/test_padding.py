"""Sizes of padded images, worked out by hand."""

from densevit.layers.padding import padded


def test_sides_are_rounded_up_to_the_multiple() -> None:
    assert padded((1, 32), 32) == (32, 32)
    assert padded((33, 640), 32) == (64, 640)
    assert padded((33, 641), 1) == (33, 641)
