"""The layers of the transformer, composed of their attention and norms as in the papers, and its encoder."""

import pytest
import torch
from torch import Tensor, nn

from densevit.layers.positions import LearnedPositions, sine_map
from densevit.set_prediction.memory import Memory
from densevit.set_prediction.queries import Queries
from densevit.set_prediction.transformer import Decoder, DecoderLayer, EncoderLayer, Transformer, encode

OPTIONS = Transformer(16, 4, 1, 1, 24, dropout=0.0)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_layers_add_positions_to_queries_and_keys_only(pre_norm: bool):
    """Norms follow the residual connections, or precede the branches (pre-norm)."""
    encoder, decoder = EncoderLayer(OPTIONS, pre_norm, nn.GELU), DecoderLayer(OPTIONS, pre_norm)
    tokens, positions, queries, query_positions = (torch.randn(2, n, 16) for n in (6, 6, 3, 3))
    bias, query_bias = torch.randn(2, 1, 1, 6), torch.randn(3, 3)
    encoded = encoder(tokens, positions, bias)
    decoded = decoder(queries, query_positions, tokens, tokens + positions, bias, query_bias)
    branches = [
        lambda x: encoder.self_attention(x + positions, x + positions, x, bias),
        encoder.feedforward,
        lambda x: decoder.self_attention(x + query_positions, x + query_positions, x, query_bias),
        lambda x: decoder.cross_attention(x + query_positions, tokens + positions, tokens, bias),
        decoder.feedforward,
    ]
    for layer, x, result, parts in (
        (encoder, tokens, encoded, branches[:2]),
        (decoder, queries, decoded, branches[2:]),
    ):
        for residual, branch in zip(layer.residuals, parts, strict=True):
            x = x + branch(residual.norm(x)) if pre_norm else residual.norm(x + branch(x))
        torch.testing.assert_close(result, x)
    memory = Memory(tokens, tokens + positions, bias, bias, bias, bias, (2, 3))
    states = Decoder([decoder, decoder])(Queries(queries, query_positions), memory, torch.neg)
    once = decoder(queries, query_positions, tokens, tokens + positions, bias)
    torch.testing.assert_close(-states, torch.stack([once, decoder(once, query_positions, *memory[:2], bias)]))


class Doubled(nn.Module):
    def forward(self, x: Tensor, positions: Tensor, attention_bias: Tensor) -> Tensor:
        assert attention_bias.shape == (2, 1, 1, 6) and attention_bias[1, 0, 0].tolist() == [0, 0, -torch.inf] * 2
        return x + 2 * positions


@pytest.mark.parametrize("learned", [False, True])
def test_the_encoder_adds_positions_and_leaves_out_padding(learned: bool):
    """Of images of 16 x 24 and 16 x 16 at stride 8."""
    padding_mask = torch.zeros(2, 16, 24, dtype=torch.bool)
    padding_mask[1, :, 16:] = True
    padding, x = padding_mask[:, ::8, ::8], torch.randn(2, 8, 2, 3)
    table = LearnedPositions(8) if learned else None
    positions = (sine_map(padding, 8) if table is None else table(padding)).flatten(1, 2)
    memory = encode(x, padding_mask, 8, [Doubled(), Doubled()], nn.Tanh(), table)
    torch.testing.assert_close(memory.tokens, (x.flatten(2).mT + 4 * positions).tanh())
    torch.testing.assert_close(memory.with_pos, memory.tokens + positions)
    assert torch.equal(memory.padding, padding.flatten(1)) and memory.size == (2, 3)
    torch.testing.assert_close(memory.cell, torch.tensor([[8 / 24, 8 / 16], [8 / 16, 8 / 16]]))
