"""Image sizes of equally many tokens, for every registered backbone."""

import re
from functools import partial

import pytest
import torch

import densevit
from densevit.errors import ConfigError
from densevit_probes.tokens import image_size_for
from tests.backbones.test_contract import CASES, factory

BACKBONES = {f"{name} {kind}": (name, kind) for name, kinds in CASES.items() for kind in kinds}
OTHERS = {
    "pixels": {"patch_size": 10},
    "vit": {"variant": "nano", "patch_size": 14, "registers": 4},
    "timm": {"model": "vit_small_patch14_reg4_dinov2", "model_args": {"depth": 1, "embed_dim": 32, "num_heads": 2}},
}


@torch.no_grad()
@pytest.mark.parametrize("name", [*BACKBONES, *OTHERS])
def test_the_last_map_of_every_backbone_has_the_tokens(name):
    """Also where the size is refused, with the number of tokens that the error names."""
    build = factory(*BACKBONES[name]) if name in BACKBONES else partial(densevit.create_backbone, name, **OTHERS[name])
    backbone = build().eval()
    for tokens in (4, 7):
        try:
            size = image_size_for(backbone, tokens)
        except ConfigError as error:
            assert name.startswith("windowed_vit")
            tokens = int(re.search(r"padded to multiples of \d+\. Fix: --tokens (\d+)", str(error))[1])
            size = image_size_for(backbone, tokens)
        assert size % (backbone.size_divisor or max(backbone.strides)) == 0  # a model adds no padding
        assert backbone(torch.zeros(1, 3, size, size))[-1].shape[-2:] == (tokens, tokens)


@pytest.mark.parametrize(
    ("strides", "size_divisor", "fixed", "tokens", "fact"),
    [
        ((14,), None, (224, 224), 20, "20x20 tokens of 14 pixels need images of 280x280.*224x224 only.*image_size=280"),
        ((4, 16), 32, None, 15, "240x240.*multiples of 32.*--tokens 16"),
        ((4, 16), 64, None, 1, "multiples of 64.*--tokens 4"),
        ((16,), None, None, 0, "at least 1"),
    ],
)
def test_sizes_that_a_backbone_cannot_have_are_refused_in_one_line(strides, size_divisor, fixed, tokens, fact):
    backbone = densevit.Backbone()
    backbone.strides, backbone.size_divisor, backbone.input_size = strides, size_divisor, fixed
    with pytest.raises(ConfigError, match=fact) as caught:
        image_size_for(backbone, tokens)
    assert "\n" not in str(caught.value)
