"""Features and input gradients match timm and transformers with the same random weights; tokens and rotary windows."""

import re

import pytest
import torch
from torch import Tensor

from densevit_backbones.vit import ViT
from densevit_backbones.vit.windows import Windows
from tests.random_weights import randomise

FROM_VITDET = [
    (r"^embeddings\.projection\.", "stem.projection."),
    (r"^embeddings\.position_embeddings$", "position_table"),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.proj\.", ".attention.output."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.fc2\.", ".mlp.contract."),
]


@pytest.mark.integration
def test_windowed_blocks_match_transformers_vitdet(assert_equal_features):
    """A grid of 10x10 cells, not divisible into windows of 4."""
    from transformers import VitDetConfig, VitDetModel

    config = VitDetConfig(
        hidden_size=128, num_hidden_layers=6, num_attention_heads=4, image_size=80, pretrain_image_size=80,
        patch_size=8, window_size=4, window_block_indices=[0, 3], drop_path_rate=0.0,
    )  # fmt: skip
    options = {"patch_size": 8, "image_size": 80, "class_token": False, "feature_norm": False}
    vit = ViT("nano", windows=Windows(4), features=(1, 2, 4, 6), **options).eval()
    reference = VitDetModel(config).eval()
    assert [block.window is not None for block in vit.blocks] == [True, False, False, True, False, False]
    randomise(vit)
    randomise(reference)
    state = reference.state_dict()
    for key in [*state]:
        name = key
        for pattern, replacement in FROM_VITDET:
            name = re.sub(pattern, replacement, name)
        state[name] = state.pop(key)
    state["position_table"] = state["position_table"][0, 1:].view(10, 10, -1)  # without that of a class token
    vit.load_state_dict(state)

    def features(images: Tensor) -> list[Tensor]:
        states = reference(images, output_hidden_states=True).hidden_states
        return [states[i] for i in vit.feature_blocks]

    assert_equal_features(vit, features, torch.randn(2, 3, 80, 80))
