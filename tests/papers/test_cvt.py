"""CvT beside transformers' Cvt; the layouts of its weights."""

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layouts import find
from densevit_checkpoints.key_mapping import translate_back
from densevit_papers.cvt import CvT, QuickGELU
from tests.checkpoints.layouts.translations import loaded
from tests.gradient_comparison import assert_same_with_gradients
from tests.random_weights import randomise
from tests.weights.states import equal

NANO = {"embed_dim": [32, 64, 128], "num_heads": [1, 2, 4], "depth": [1, 2, 4]}


@pytest.fixture(scope="module")
def reference() -> Any:
    """A small classifier of transformers with random weights."""
    from transformers import CvtConfig, CvtForImageClassification

    torch.manual_seed(0)
    return randomise(CvtForImageClassification(CvtConfig(**NANO, num_labels=5))).eval()


def of_file(state: dict[str, Tensor], layout: str, **options: object) -> CvT:
    """The backbone of a checkpoint, with random norms of its features, which a classifier lacks."""
    cvt = loaded(state, layout, **options)
    randomise(cvt.feature_norms)
    return cvt


def maps(model: Any, images: Tensor, backbone: CvT) -> list[Tensor]:
    """The maps of transformers' stages, each with our norm."""
    hidden = model.cvt(images, output_hidden_states=True).hidden_states
    return [
        F.layer_norm(x.movedim(1, 3), norm.normalized_shape, norm.weight, norm.bias, 1e-5).movedim(3, 1)
        for x, norm in zip(hidden, backbone.feature_norms, strict=True)
    ]


@pytest.mark.parity("transformers-cvt")
@pytest.mark.parametrize(("gelu", "size"), [("erf", (64, 96)), ("quick", (67, 44))])
def test_features_and_gradients_match_transformers(gelu, size, reference):
    """Sizes of which the authors' first embedding, too, makes ceil(size / 4) cells."""
    from transformers.activations import ACT2FN

    reference = copy.deepcopy(reference)
    for layer in reference.modules():
        if hasattr(layer, "activation"):
            layer.activation = ACT2FN["quick_gelu" if gelu == "quick" else "gelu"]
    backbone = of_file(reference.state_dict(), "transformers-cvt", gelu=gelu)
    own, other = (torch.linspace(-2, 2, 2 * 3 * math.prod(size)).sin().view(2, 3, *size) * 2 for _ in range(2))
    found, expected = backbone(own.requires_grad_()), maps(reference, other.requires_grad_(), backbone)
    assert [x.shape[2:] for x in found] == [tuple(-(-side // stride) for side in size) for stride in (4, 8, 16)]
    assert_same_with_gradients(found, expected, [own], [other], 1e-4, of_gradients=1e-3)


def authors_names(name: str) -> str:
    """A key of transformers in the authors' code."""
    for pattern, theirs in (
        (r"^cvt\.encoder\.stages\.(\d)\.", r"stage\1."),
        (r"embedding\.convolution_embeddings\.projection", "patch_embed.proj"),
        (r"embedding\.convolution_embeddings\.normalization", "patch_embed.norm"),
        (r"layers\.", "blocks."),
        (r"attention\.attention\.convolution_projection_(.)\w+\.convolution_projection\.", r"attn.conv_proj_\1."),
        (r"(conv_proj_.)\.convolution\.", r"\1.conv."),
        (r"(conv_proj_.)\.normalization\.", r"\1.bn."),
        (r"attention\.attention\.projection_(.)\w+", r"attn.proj_\1"),
        (r"attention\.output\.dense", "attn.proj"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"output\.dense", "mlp.fc2"),
        (r"^layernorm\.", "norm."),
        (r"^classifier\.", "head."),
    ):
        name = re.sub(pattern, theirs, name)
    return name


@pytest.mark.parity("microsoft-cvt")
def test_files_of_the_authors_are_read_and_both_layouts_write_what_they_read(reference):
    """Keys of `lib/models/cls_cvt.py`, which transformers' conversion maps in the same way; the MLPs differ."""
    theirs = {f"cvt.{key}": tensor for key, tensor in reference.cvt.state_dict().items()}
    authors = {authors_names(key): tensor for key, tensor in theirs.items()}
    ours = []
    for layout, state in (("transformers-cvt", theirs), ("microsoft-cvt", authors)):
        ours.append(of_file(state, layout))
        back, unknown = translate_back(ours[-1].state_dict(), find(layout))
        assert unknown == [] and equal(back, {key.removeprefix("cvt."): tensor for key, tensor in state.items()})
    assert [type(cvt.stages[0][0].mlp.activation) for cvt in ours] == [nn.GELU, QuickGELU]
