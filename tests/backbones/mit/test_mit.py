"""MiT beside transformers' Segformer; parameters and multiply-adds of the paper."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from densevit_backbones.mit import MixTransformer
from densevit_backbones.mit.variants import VARIANTS
from tests.backbones.references import load

# Millions of parameters of the encoder (Xie et al. 2021, table 1a); of the classifiers, table 6 in the authors' code
MILLIONS = {"b0": 3.4, "b1": 13.1, "b2": 24.2, "b3": 44.0, "b4": 60.8, "b5": 81.4}


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_match_the_paper(variant):
    with torch.device("meta"):
        mit = MixTransformer(variant)
    assert sum(p.numel() for p in mit.parameters()) / 1e6 == pytest.approx(MILLIONS[variant], abs=0.13)


def test_multiply_adds_by_hand():
    """Of B0 at 64 x 64, from the shapes of table 6: convolutions, linear layers and both products of attention."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        MixTransformer("b0").eval()(torch.empty(1, 3, 64, 64))
    expected, before = 0, 3
    stages = zip((32, 64, 160, 256), (16, 8, 4, 2), (8, 4, 2, 1), (7, 3, 3, 3), strict=True)
    for width, side, reduction, kernel in stages:
        N, S = side**2, (side // reduction) ** 2
        block = 2 * N * width**2 + 2 * S * width**2 + 2 * N * S * width  # q and output, k and v, attention
        block += S * (reduction * width) ** 2 if reduction > 1 else 0
        block += 2 * N * 4 * width**2 + 9 * N * 4 * width
        expected += N * before * width * kernel**2 + 2 * block
        before = width
    assert counter.get_total_flops() / 2 == expected


def test_initial_weights_are_those_of_the_authors():
    """Convolutions: variance 2 / fan-out; linear layers: 0.02."""
    torch.manual_seed(0)
    mit = MixTransformer("b1")
    kernel, depthwise = mit.patches[2].projection.weight, mit.stages[0][0].mlp.depthwise.weight
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / (9 * 320)), rel=0.05)
    assert depthwise.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    assert mit.stages[3][1].attention.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(p.any() for name, p in mit.named_parameters() if name.endswith("bias"))
