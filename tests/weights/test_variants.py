"""The tables of `densevit.weights.variants` are those of the backbones, which the framework does not import."""

from densevit.weights import variants
from densevit_backbones import mvit, resnet, swin, vit


def test_variants_match_the_backbones():
    assert {name: (v.width, v.depth) for name, v in vit._VARIANTS.items()} == {
        name: (width, depth) for width, (name, depth) in variants.VIT.items()
    }
    assert {(v.width, v.blocks): name for name, v in swin._VARIANTS.items()} == variants.SWIN
    assert {
        (version, v.width, v.blocks): name for version, own in mvit._VARIANTS.items() for name, v in own.items()
    } == variants.MVIT
    assert {(blocks, depth >= 50): depth for depth, blocks in resnet._BLOCKS.items()} == variants.RESNET
