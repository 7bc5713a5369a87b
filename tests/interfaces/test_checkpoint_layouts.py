"""Layouts of backbones and of models."""

import pytest

from densevit.interfaces import CheckpointLayout, Line


@pytest.mark.parametrize(("key", "is_backbone"), [("b", True), ("heads.b", False)])
def test_a_layout_without_heads_is_a_backbone_s(key: str, is_backbone: bool):
    assert CheckpointLayout("a", (), (Line("a", key),), dict).is_backbone == is_backbone
