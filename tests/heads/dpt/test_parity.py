"""DPT backbone and head against transformers with shared random weights; parameter counts of the paper."""

import re

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class
from densevit_backbones.vit import ViT
from densevit_heads.dpt import DptDepth, DptSegmentation

K, SIDE = 7, 64
CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(K)]

BACKBONE = [
    (r"^dpt\.embeddings\.(?:patch_embeddings\.)?projection\.", "stem.projection."),
    (r"^dpt\.embeddings\.backbone\.bit\.embedder\.convolution\.", "stem.conv."),
    (r"^dpt\.embeddings\.backbone\.bit\.embedder\.norm\.", "stem.norm."),
    (r"^dpt\.embeddings\.backbone\.bit\.encoder\.stages\.(\d)\.layers\.", r"stem.stages.\1."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.norm\.", ".downsample.1."),
    (r"^dpt\.embeddings\.cls_token$", "class_token"),
    (r"^dpt\.embeddings\.position_embeddings$", "position_table"),
    (r"^dpt\.encoder\.layer\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.", ".attention."),
    (r"\.attention\.output\.dense\.", ".attention.output."),
    (r"\.intermediate\.dense\.", ".mlp.expand."),
    (r"\.output\.dense\.", ".mlp.contract."),
]
HEAD = [
    (r"^neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"decode.reassemble.\1.projection."),
    (r"^neck\.reassemble_stage\.layers\.3\.resize\.", r"decode.reassemble.3.resample.0."),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"decode.reassemble.\1.resample."),
    (r"^neck\.convs\.", "decode.project."),
    (r"^neck\.fusion_stage\.layers\.(\d)\.", lambda m: f"decode.fuse.{32 >> int(m[1])}."),
    (r"\.residual_layer([12])\.convolution([12])\.", r".residual\1.conv\2."),
    (r"\.residual_layer([12])\.batch_norm([12])\.", r".residual\1.norm\2."),
]
DEPTH_HEAD = [(r"^head\.head\.(\d)\.", lambda m: f"conv{int(m[1]) // 2 + 1}.")]
SEGMENTATION_HEAD = [(r"^head\.head\.", "classifier."), (r"^auxiliary_head\.head\.", "auxiliary.")]
WITHOUT_EFFECT = r"dpt\.layernorm\.|neck\.fusion_stage\.layers\.0\.residual_layer1\."  # of the reference's weights


def randomise(module: nn.Module) -> None:
    """Randomises parameters and statistics so that errors become visible."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
        elif any(word in name for word in ("cls_token", "position_embeddings")):
            nn.init.normal_(parameter)
        else:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, 0.0, 0.3)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)


def load(vit: ViT, head: nn.Module, reference: nn.Module, head_names: list) -> None:
    """Loads all weights of the reference except those without effect; every tensor of ours must be set."""
    given: dict[str, Tensor] = {}
    for key, value in reference.state_dict().items():
        if re.match(WITHOUT_EFFECT, key):
            continue
        ours = re.sub(r"^neck\.reassemble_stage\.readout_projects\.(\d)\.0\.", r"readouts.\1.projection.", key)
        for pattern, replacement in [*BACKBONE, *HEAD, *head_names]:
            ours = re.sub(pattern, replacement, ours)
        given[ours] = value
    for key in [key for key in given if ".query." in key]:
        parts = [given.pop(key.replace("query", name)) for name in ("query", "key", "value")]
        given[key.replace("query", "qkv")] = torch.cat(parts)
    if len(vit.readouts) == 2:  # hybrid: only the last two of four maps have readouts
        for kind in ("weight", "bias"):
            for i in (2, 3):
                given[f"readouts.{i - 2}.projection.{kind}"] = given.pop(f"readouts.{i}.projection.{kind}")
    table = given["position_table"][0]
    given["class_token"] = given["class_token"][0] + table[:1]
    given["position_table"] = table[1:].view(vit.position_side, vit.position_side, -1)
    of_head = {key: given.pop(key) for key in list(given) if key in head.state_dict()}
    vit.load_state_dict(given)
    head.load_state_dict(of_head)


def reference_of(kind: type, hybrid: bool, side: int, **options) -> nn.Module:
    """transformers' DPT with the width of our nano, for square images of `side` pixels."""
    from transformers import DPTConfig

    config = DPTConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        layer_norm_eps=1e-6,
        image_size=side,
        is_hybrid=hybrid,
        backbone_out_indices=[0, 1, 4, 5] if hybrid else [1, 2, 4, 5],
        neck_hidden_sizes=[256, 512, 128, 128] if hybrid else [32, 64, 128, 128],
        fusion_hidden_size=64,
        num_labels=K,
        **options,
    )
    return kind(config).eval()


def of_any_size(reference: nn.Module, size: tuple[int, int]) -> None:
    """Allows images that are not square, by passing the token grid."""
    grid = (size[0] // 16, size[1] // 16)
    embeddings = reference.dpt.embeddings
    embeddings.image_size = size
    stage = reference.neck.reassemble_stage
    stage.register_forward_pre_hook(lambda module, inputs: (inputs[0], *grid))


def pair(kind: type, hybrid: bool, **options) -> tuple[ViT, nn.Module, nn.Module]:
    """Our backbone and head, and the reference, with its weights."""
    from transformers import DPTForDepthEstimation

    reference = reference_of(kind, hybrid, SIDE, **options)
    stem = "resnet" if hybrid else "patch"
    vit = ViT(
        "nano", stem=stem, image_size=SIDE, readout="project", feature_norm=False, position_resizing="bilinear"
    ).eval()
    randomise(reference)
    if hybrid:
        for name, parameter in reference.named_parameters():
            if name.endswith("norm3.weight"):  # as weak as trained ones, or rounding errors grow until ReLUs flip
                parameter.data *= 0.2
            elif ".bit." in name and "conv" in name:  # standardised: a variance beside which their epsilon is nothing
                parameter.data *= 1000
    if kind is DPTForDepthEstimation:
        head = DptDepth(vit.channels, vit.strides, width=64).eval()
        load(vit, head, reference, DEPTH_HEAD)
    else:
        head = DptSegmentation(vit.channels, vit.strides, CLASSES, width=64).eval()
        load(vit, head, reference, SEGMENTATION_HEAD)
    return vit, head, reference


def assert_equal(modules: tuple[nn.Module, ...], ours, theirs, images: Tensor) -> None:
    """Maps within 1e-4 in fp32; in fp64, where no rounding flips a ReLU, gradients of a random sum by the images."""
    with torch.no_grad():
        found, expected = ours(images), theirs(images)
    assert found.shape == expected.shape
    assert expected.std() > 0.1 and (expected != 0).float().mean() > 0.2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for module in modules:
        module.double()
    weight = torch.randn_like(found.double())
    gradients = []
    for function in (ours, theirs):
        own = images.double().requires_grad_()
        (function(own) * weight).mean().backward()
        gradients.append(own.grad)
    scale = 1 / gradients[1].abs().max()
    torch.testing.assert_close(gradients[0] * scale, gradients[1] * scale, atol=1e-4, rtol=1e-3)


SIZES = [(SIDE, SIDE), (64, 96)]
STYLES = [
    pytest.param(False, id="large style"),
    pytest.param(True, id="hybrid", marks=pytest.mark.integration),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("hybrid", STYLES)
def test_depth_matches_transformers(hybrid, size):
    from transformers import DPTForDepthEstimation

    vit, head, reference = pair(DPTForDepthEstimation, hybrid)
    if size[0] != size[1]:
        of_any_size(reference, size)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    assert_equal(
        (vit, head, reference),
        lambda images: head.maps(head(vit(images), mask), size)[:, 0],
        lambda images: reference(images).predicted_depth,
        torch.randn(1, 3, *size),
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("hybrid", STYLES)
def test_segmentation_matches_transformers(hybrid, size):
    from transformers import DPTForSemanticSegmentation

    vit, head, reference = pair(DPTForSemanticSegmentation, hybrid, use_batch_norm_in_fusion_residual=True)
    if size[0] != size[1]:
        of_any_size(reference, size)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():  # the second classifier is transformers', on the map that the paper says
        fused = head.decode(vit(images), size)
        assert fused[2].shape == (1, 64, size[0] // 4, size[1] // 4)
        expected = reference.auxiliary_head(fused[2])
        torch.testing.assert_close(head.auxiliary(fused[2]), expected, atol=1e-4, rtol=1e-4)
    assert_equal(
        (vit, head, reference),
        lambda images: head.maps(head(vit(images), mask), size),
        lambda images: reference(images).logits,
        images,
    )


def test_the_reference_does_not_use_the_skipped_weights():
    from transformers import DPTForDepthEstimation

    reference = reference_of(DPTForDepthEstimation, False, SIDE)
    randomise(reference)
    reference(torch.randn(1, 3, SIDE, SIDE)).predicted_depth.sum().backward()
    unused = {name for name, parameter in reference.named_parameters() if parameter.grad is None}
    assert unused == {name for name, _ in reference.named_parameters() if re.match(WITHOUT_EFFECT, name)}
    assert len(unused) == 6


@pytest.mark.parametrize(
    ("backbone", "millions", "paper"),
    [({"variant": "base", "stem": "resnet"}, 121.2, 123), ({"variant": "large"}, 341.8, 343)],
    ids=["DPT-Hybrid", "DPT-Large"],
)
def test_parameter_counts_match_the_paper(backbone, millions, paper):
    """Section 4, of the authors' whole checkpoints: some of their weights have no effect, and none of ours."""
    from transformers import DPTConfig, DPTForDepthEstimation

    large = backbone["variant"] == "large"
    with torch.device("meta"):
        vit = ViT(**backbone, image_size=384, readout="project", feature_norm=False, position_resizing="bilinear")
        head = DptDepth(vit.channels, vit.strides)
        config = DPTConfig(
            is_hybrid=not large,
            hidden_size=1024 if large else 768,
            num_hidden_layers=24 if large else 12,
            num_attention_heads=16 if large else 12,
            intermediate_size=4096 if large else 3072,
            neck_hidden_sizes=[256, 512, 1024, 1024] if large else [256, 512, 768, 768],
        )
        reference = DPTForDepthEstimation(config)
    total = sum(p.numel() for module in (vit, head) for p in module.parameters())
    assert round(total / 1e6, 1) == millions
    assert f"{millions} M" in DptDepth.__doc__
    theirs = dict(reference.named_parameters())
    unused = sum(p.numel() for name, p in theirs.items() if re.match(WITHOUT_EFFECT, name))
    width = vit.channels[-1]  # of the class token's position, which is part of that token here
    assert total == sum(p.numel() for p in theirs.values()) - unused - width
    assert abs((total + unused + width) / 1e6 - paper) / paper < 0.01
