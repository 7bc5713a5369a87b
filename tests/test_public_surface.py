"""The public names exist. That pages list them and that each has a docstring are checks of tools/conventions."""

import pytest

import densevit


def test_public_names_exist():
    for name in densevit.__all__:
        assert getattr(densevit, name).__doc__, name
        assert name in dir(densevit)


def test_all_is_sorted_and_unknown_names_raise_attribute_error():
    assert densevit.__all__ == sorted(densevit.__all__)
    with pytest.raises(AttributeError, match="module 'densevit' has no attribute 'Backbones'"):
        _ = densevit.Backbones
