"""Perceiver IO beside transformers' encoder and decoder; Fourier encodings, padding and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from densevit.interfaces import Class
from densevit_papers.perceiver_io import Layer, PerceiverIO
from tests.gradient_comparison import assert_same_with_gradients

CLASSES = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abcd")]
CHANNELS, STRIDES = (6, 10), (4, 8)
SMALL = {"width": 16, "num_latents": 5, "num_layers": 2, "num_heads": 4, "num_bands": 3, "max_resolution": 20}
NAMES = {  # of a layer's parts here and in transformers
    "norm": "attention.self.layernorm1",
    "input_norm": "attention.self.layernorm2",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "mlp_norm": "layernorm",
    "mlp.expand": "mlp.dense1",
    "mlp.contract": "mlp.dense2",
}


def make_head(**options: object) -> PerceiverIO:
    """A head with random weights, of which none is 0 or 1."""
    head = PerceiverIO(CHANNELS, STRIDES, CLASSES, **{**SMALL, **options})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return head


def features_of(size: tuple[int, int], B: int = 2) -> list[Tensor]:
    return [torch.randn(B, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]


def copy_layer(ours: Layer, theirs: Any) -> None:
    modules = dict(ours.named_modules())
    for name, their_name in NAMES.items():
        if modules.get(name) is not None:
            theirs.get_submodule(their_name).load_state_dict(modules[name].state_dict())


def transformers_logits(head: PerceiverIO, features: list[Tensor], size: tuple[int, int], residual: bool) -> Tensor:
    """Logits (B, K, h, w) by transformers' encoder and decoder with the head's weights, for images without padding."""
    from transformers import PerceiverConfig
    from transformers.models.perceiver.modeling_perceiver import (
        PerceiverBasicDecoder,
        PerceiverEncoder,
        generate_fourier_features,
    )

    config = PerceiverConfig(
        d_latents=16,
        num_blocks=head.num_blocks,
        num_self_attends_per_block=len(head.process),
        num_self_attention_heads=head.process[0].attention.num_heads,
        num_cross_attention_heads=head.encode.attention.num_heads,
        self_attention_widening_factor=1,
        cross_attention_widening_factor=1,
        attention_probs_dropout_prob=0.0,
    )
    encoder = PerceiverEncoder(config, kv_dim=16)
    decoder = PerceiverBasicDecoder(
        config,
        output_num_channels=len(CLASSES),
        position_encoding_type="none",
        num_channels=16,
        num_heads=head.decode.attention.num_heads,
        use_query_residual=residual,
    )
    for ours, theirs in zip(head.process, encoder.self_attends, strict=True):
        copy_layer(ours, theirs)
    copy_layer(head.encode, encoder.cross_attention)
    copy_layer(head.decode, decoder.decoding_cross_attention)
    decoder.final_layer.load_state_dict(head.classifier.state_dict())

    tokens = []
    for x, stride in zip(features, STRIDES, strict=True):
        rows, columns = (
            (2 * torch.arange(n) + 1) * stride / side - 1 for n, side in zip(x.shape[2:], size, strict=True)
        )
        grid = torch.cartesian_prod(rows, columns)[None].expand(len(x), -1, -1)
        encoding = generate_fourier_features(grid, head.num_bands, (head.max_resolution,) * 2)
        tokens.append(torch.cat([x.flatten(2).mT, encoding], dim=-1))
    inputs = torch.cat([project(x) for project, x in zip(head.inputs, tokens, strict=True)], dim=1)
    latents = encoder(head.latents.expand(len(inputs), -1, -1), inputs=inputs).last_hidden_state
    queries = tokens[head.feature]
    if head.query.in_features < queries.shape[-1]:
        queries = queries[..., -head.query.in_features :]
    return decoder(head.query(queries), latents).logits.mT.unflatten(2, features[head.feature].shape[2:])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queries": "positions", "num_blocks": 3, "cross_heads": 2},
        {"query_residual": True, "feature": 2, "num_latents": 9},
    ],
    ids=str,
)
def test_logits_and_gradients_match_transformers(options: dict) -> None:
    head, size = make_head(**options), (37, 50)
    features = [x.requires_grad_() for x in features_of(size)]
    copies = [x.detach().clone().requires_grad_() for x in features]
    found = head(features, torch.zeros(2, *size, dtype=torch.bool))["logits"]
    expected = transformers_logits(head, copies, size, bool(options.get("query_residual")))
    assert_same_with_gradients([found], [expected], features, copies, 1e-4, of_gradients=1e-3)


@torch.no_grad()
def test_each_image_of_a_padded_batch_has_the_logits_of_the_image_alone() -> None:
    head = make_head().eval()
    features, mask = features_of((48, 64)), torch.ones(2, 48, 64, dtype=torch.bool)
    for i, (h, w) in enumerate([(48, 64), (24, 40)]):
        mask[i, :h, :w] = False
        logits = head(features, mask)["logits"][i : i + 1, :, : h // 4, : w // 4]
        alone = [x[i : i + 1, :, : h // s, : w // s] for x, s in zip(features, STRIDES, strict=True)]
        expected = transformers_logits(head, alone, (h, w), False)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
