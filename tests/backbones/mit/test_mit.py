"""MiT beside transformers' Segformer; parameters and multiply-adds of the paper."""

import math

import pytest
import torch

from densevit_backbones.mit import MixTransformer
from tests.backbones.references import load


def test_features_and_gradients_match_transformers(randomise, assert_equal_features):
    from transformers import SegformerConfig, SegformerModel

    torch.manual_seed(0)
    theirs = SegformerModel(SegformerConfig()).eval()
    randomise(theirs)
    ours = MixTransformer("b0", norm_eps=1e-5).eval()
    load(ours, theirs.state_dict(), "transformers-mit")

    def features(images):
        return theirs(images, output_hidden_states=True).hidden_states

    assert_equal_features(ours, features, torch.randn(2, 3, 97, 131))


def test_initial_weights_are_those_of_the_authors():
    """Convolutions: variance 2 / fan-out; linear layers: 0.02."""
    torch.manual_seed(0)
    mit = MixTransformer("b1")
    kernel, depthwise = mit.patches[2].projection.weight, mit.stages[0][0].mlp.depthwise.weight
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / (9 * 320)), rel=0.05)
    assert depthwise.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    assert mit.stages[3][1].attention.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(p.any() for name, p in mit.named_parameters() if name.endswith("bias"))
