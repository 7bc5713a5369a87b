"""The decoder of queries that are boxes (DAB-DETR, Liu et al. 2022)."""

import torch
from torch import Tensor, nn

from densevit.layers.mlp import Mlp
from densevit.set_prediction.box_positions import BoxPositionBias, BoxPositions
from densevit.set_prediction.box_refinement import refine
from densevit.set_prediction.memory import Memory
from densevit.set_prediction.queries import BoxQueries


class BoxDecoder(nn.ModuleList):
    """Decoder layers over boxes, which each layer refines (DAB-DETR, Liu et al. 2022, section 4)."""

    def forward(
        self,
        queries: BoxQueries,
        memory: Memory,
        norm: nn.Module,
        box_head: Mlp,
        embed: BoxPositions,
        position_bias: BoxPositionBias | None,
        query_attention_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the normalised states (L, B, Q, C) and the boxes (L, B, Q, 4) after each layer.

        query_attention_bias: (Q, Q) or (B, 1, Q, Q), added to the self-attention scores.
        """
        x, boxes = queries
        states, refined = [], []
        for layer in self:
            attention_bias = memory.attention_bias
            if position_bias is not None:
                added = position_bias(boxes, memory)
                attention_bias = attention_bias.to(added.dtype) + added
            x = layer(x, embed(boxes), memory.tokens, memory.with_pos, attention_bias, query_attention_bias)
            states.append(norm(x))
            refined.append(refine(box_head, states[-1], boxes))
            boxes = refined[-1].detach()
        return torch.stack(states), torch.stack(refined)
