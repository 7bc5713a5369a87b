"""The ResNet of attention layers: torchvision's without attention, its depths and sections, and refused options."""

from functools import partial

import pytest
import torch

from densevit_papers.attention_resnet import AttentionResNet
from densevit_papers.axial import Axial, AxialAttention
from densevit_papers.lr_net import LocalRelations
from densevit_papers.non_local import NonLocal
from densevit_papers.sagan import SelfAttention
from densevit_papers.sasa import StandAlone
from tests.backbones.references import stage_maps
from tests.papers.small_models import randomise

small = partial(AttentionResNet, depth=26, width=0.125)


@pytest.mark.integration
def test_without_attention_it_is_torchvision_s_resnet_50():
    """Features, gradients and running statistics in training are bit-identical."""
    import torchvision

    ours, reference = AttentionResNet().train(), torchvision.models.resnet50().train()
    randomise(reference)
    ours.load_state_dict({key: x for key, x in reference.state_dict().items() if not key.startswith("fc.")})
    images = torch.randn(2, 3, 64, 75)
    found, expected = ours(images), stage_maps(reference, images)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    for features in (found, expected):
        torch.stack([x.square().mean() for x in features]).sum().backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if not name.startswith("fc.")}
    assert all(torch.equal(p.grad, gradients[name]) for name, p in ours.named_parameters())
    assert all(torch.equal(x, reference.state_dict()[key]) for key, x in ours.state_dict().items())


def test_depths_have_inserted_blocks_beside_their_residual_block():
    resnet = small(non_local=NonLocal(1))  # blocks of 1, 2, 4 and 1 after the stem; position 2 of the third stage
    own = {id(p) for p in [*resnet.layer3[2].parameters(), *resnet.inserted["3_2"].parameters()]}
    assert {id(p) for p in resnet.parameter_depths()[1 + 1 + 2 + 2]} == own


@pytest.mark.parametrize(
    ("build", "facts"),
    [
        (lambda: AttentionResNet(sagan=SelfAttention(), axial=Axial()), "sagan, axial .* at most one"),
        (lambda: AttentionResNet(width=0), "width must be a whole number"),
        (lambda: AttentionResNet(width=0.3), "width must be a whole number"),
        (lambda: AttentionResNet(26, non_local=NonLocal(5)), "non_local.blocks 5 .*depth 50, 101.* 26"),
        (lambda: AttentionResNet(26, 0.125, sasa=StandAlone()), "sasa: 8 channels .*num_heads, 16"),
        (lambda: AxialAttention(8, 8), "axial: 8 channels .*num_heads, 16"),
        (lambda: Axial(span=64), "span is 64; .*odd"),
        (lambda: Axial(num_heads=0), "num_heads is 0"),
        (lambda: Axial(stages=(5,)), r"stages is \(5,\)"),
        (lambda: LocalRelations(kernel_size=0), "kernel_size is 0; .*odd"),
        (lambda: LocalRelations(sharing=0), "sharing is 0"),
        (lambda: LocalRelations(stages=(5,)), r"stages is \(5,\)"),
        (lambda: StandAlone(kernel_size=4), "kernel_size is 4; .*odd"),
        (lambda: StandAlone(num_heads=0), "num_heads is 0"),
        (lambda: StandAlone(stages=(0,)), r"stages is \(0,\)"),
        (lambda: SelfAttention(stages=(5,)), r"stages is \(5,\)"),
        (lambda: SelfAttention(value_reduction=0), "value_reduction is 0"),
    ],
)
def test_invalid_options_are_refused(build, facts):
    with pytest.raises(ValueError, match=facts):
        build()
