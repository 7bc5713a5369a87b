"""Checkpoints of densevit, whose header has classes, normalisation and adapters, and of others, by hand."""

import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.translated_checkpoint import native

CONFIG = "{backbone: {name: x, mean: [1, 2, 3], adapted_stem: [a.weight]}, heads: {seg: {name: y}}}"
HEADER = {"format": "densevit", "format_version": "2", "classes": '{"seg": [{"name": "road"}]}', "config": CONFIG}


def test_a_checkpoint_has_what_its_header_says():
    tensors = {"heads.seg.x": torch.ones(1), "backbone.y": torch.ones(2)}
    found = native(Checkpoint(tensors, "a.pth", HEADER))
    assert (found.source, found.tensors, found.heads) == ("a.pth", tensors, ["seg"])
    assert (found.classes, found.describe()) == ({"seg": ["road"]}, {"heads": {"seg": {"name": "y"}}})
    assert (found.mean, found.std, found.adapted_stem) == ((1.0, 2.0, 3.0), None, ("a.weight",))
    assert native(Checkpoint(tensors, "b.pth")).classes == {}
    with pytest.raises(WeightsError, match=r"a\.pth: its header is corrupt"):
        native(Checkpoint(tensors, "a.pth", {**HEADER, "classes": "["}))
