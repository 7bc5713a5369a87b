"""SegFormer's head beside transformers' decode head."""

from typing import TYPE_CHECKING

import pytest
import torch

from densevit.interfaces import Class
from densevit_heads.segformer import SegFormer
from tests.heads.padded_batch import make_features, no_padding

if TYPE_CHECKING:
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead


CLASSES = [Class(f"class {i}", i, (0, 0, 0)) for i in range(5)]
WIDTHS, STRIDES = (8, 12, 20, 28), (4, 8, 16, 32)
NAMES = {"linear_projections": "project", "linear_fuse": "fuse", "batch_norm": "fuse_norm"}


def pair() -> "tuple[SegformerDecodeHead, SegFormer]":
    from transformers import SegformerConfig
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

    config = SegformerConfig(hidden_sizes=[*WIDTHS], decoder_hidden_size=24, num_labels=5)
    theirs, ours = SegformerDecodeHead(config), SegFormer(WIDTHS, STRIDES, CLASSES, 24)
    for name, tensor in theirs.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(0.5 if tensor.ndim == 1 else 0, 0.3)
    state = {}
    for key, tensor in theirs.state_dict().items():
        first, _, rest = key.partition(".")
        state[f"{NAMES.get(first, first)}.{rest.replace('proj.', '')}"] = tensor
    ours.load_state_dict(state)
    return theirs, ours


@pytest.mark.parametrize("training", [False, True])
def test_logits_and_gradients_match_transformers(training):
    torch.manual_seed(0)
    theirs, ours = pair()
    theirs.dropout.p = ours.classifier.dropout = 0.0
    theirs.train(training), ours.train(training)
    features = [x.requires_grad_() for x in make_features((WIDTHS, STRIDES), (64, 96))]
    copies = [x.detach().clone().requires_grad_() for x in features]
    found, expected = ours(features, no_padding((64, 96)))["logits"], theirs(copies)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(found)
    for logits in (found, expected):
        (logits * weights).mean().backward()
    for x, y in zip(features, copies, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(ours.fuse.weight.grad, theirs.linear_fuse.weight.grad, rtol=1e-3, atol=1e-6)
