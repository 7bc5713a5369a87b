"""DETR's queries and decoder: learned positions that stay the same (Carion et al. 2020, section 3.2 and A.3)."""

import torch
from torch import Tensor, nn

from densevit.set_prediction.memory import Memory
from densevit.set_prediction.queries import Queries


def learned_queries(embedding: nn.Embedding, batch_size: int) -> Queries:
    """Learned positions, and contents that are zero (Carion et al. 2020, section 3.2)."""
    positions = embedding.weight.expand(batch_size, -1, -1)
    return Queries(torch.zeros_like(positions), positions)


class Decoder(nn.ModuleList):
    """Decoder layers over queries whose positions stay the same (Carion et al. 2020, A.3)."""

    def forward(self, queries: Queries, memory: Memory, norm: nn.Module) -> Tensor:
        """Returns the normalised states after each layer, (L, B, Q, C)."""
        x, states = queries.contents, []
        for layer in self:
            x = layer(x, queries.positions, memory.tokens, memory.with_pos, memory.attention_bias)
            states.append(norm(x))
        return torch.stack(states)
