"""Initial weights of MiT; tests/weights/layouts compares its features with transformers' and the authors'."""

import math

import pytest
import torch

from densevit_backbones.mit import MixTransformer


def test_initial_weights_are_those_of_the_authors():
    """Convolutions: variance 2 / fan-out; linear layers: 0.02."""
    torch.manual_seed(0)
    mit = MixTransformer("b1")
    kernel, depthwise = mit.patches[2].projection.weight, mit.stages[0][0].mlp.depthwise.weight
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / (9 * 320)), rel=0.05)
    assert depthwise.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    assert mit.stages[3][1].attention.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(p.any() for name, p in mit.named_parameters() if name.endswith("bias"))
