"""Features and input gradients match timm and transformers with the same random weights; tokens and rotary windows."""

import re

import pytest
import torch
from torch import Tensor, nn

from densevit_backbones.vit import ViT
from densevit_backbones.vit.windows import Windows

FROM_VITDET = [
    (r"^embeddings\.projection\.", "stem.projection."),
    (r"^embeddings\.position_embeddings$", "position_table"),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.proj\.", ".attention.output."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.fc2\.", ".mlp.contract."),
]


@pytest.mark.integration
def test_windowed_blocks_match_transformers_vitdet(randomise, assert_equal_features):
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


@pytest.mark.integration
def test_an_added_readout_matches_transformers_dpt(randomise):
    """Projections are compared with the authors' in tests/weights/layouts."""
    from transformers import DPTConfig
    from transformers.models.dpt.modeling_dpt import DPTReassembleStage

    vit = ViT("nano", readout="add", registers=2, feature_norm=False).eval()
    randomise(vit)
    config = DPTConfig(hidden_size=128, num_attention_heads=4, readout_type="add", neck_ignore_stages=[])
    stage = DPTReassembleStage(config)
    stage.layers = nn.ModuleList(nn.Identity() for _ in range(4))
    tokens: list[Tensor] = []
    for block in vit.feature_blocks:
        vit.blocks[block - 1].register_forward_hook(lambda module, inputs, x: tokens.append(x))
    found = vit(torch.randn(2, 3, 50, 80))
    theirs = stage([torch.cat([x[:, :1], x[:, 3:]], dim=1) for x in tokens], 4, 5)
    for x, y in zip(found, theirs, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
