"""SegFormer's head beside transformers' decode head; cost, padding and options."""

from typing import TYPE_CHECKING

import pytest
import torch

from densevit.interfaces import Class
from densevit_heads.segformer import SegFormer

if TYPE_CHECKING:
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead


CLASSES = [Class(f"class {i}", i, (0, 0, 0)) for i in range(150)]
STRIDES = (4, 8, 16, 32)
NAMES = {"linear_projections": "project", "linear_fuse": "fuse", "batch_norm": "fuse_norm"}
# (width of the decoder, image side, parameters in millions, multiply-adds in billions), Xie et al. 2021, table 1


def pair(widths=(8, 12, 20, 28), width=24) -> "tuple[SegformerDecodeHead, SegFormer]":
    from transformers import SegformerConfig
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

    config = SegformerConfig(hidden_sizes=[*widths], decoder_hidden_size=width, num_labels=5)
    theirs, ours = SegformerDecodeHead(config), SegFormer(widths, STRIDES, CLASSES[:5], width)
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
    features = [
        torch.randn(2, c, 64 // s, 96 // s, requires_grad=True) for c, s in zip((8, 12, 20, 28), STRIDES, strict=True)
    ]
    copies = [x.detach().clone().requires_grad_() for x in features]
    found, expected = ours(features, torch.zeros(2, 64, 96, dtype=torch.bool))["logits"], theirs(copies)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(found)
    for logits in (found, expected):
        (logits * weights).mean().backward()
    for x, y in zip(features, copies, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(ours.fuse.weight.grad, theirs.linear_fuse.weight.grad, rtol=1e-3, atol=1e-6)
