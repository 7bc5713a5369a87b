"""Dense proposals: class scores and a box from each cell of the memory."""

import torch
from torch import Tensor, nn

from densevit.layers.mlp import Mlp
from densevit_heads.detr.anchors import inverse_sigmoid
from densevit_heads.detr.memory import Memory


class Proposals(nn.Module):
    """Predicts one object per cell, with boxes initialised to a fifth of the image."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.label_head = nn.Linear(width, num_classes)
        self.box_head = Mlp(width, width, 4, 3)
        nn.init.constant_(self.label_head.bias, -4.6)  # a probability of 0.01
        nn.init.zeros_(self.box_head.last.weight)
        nn.init.zeros_(self.box_head.last.bias)

    def forward(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Returns logits (B, S, K) and boxes (B, S, 4), normalised cxcywh."""
        return self.label_head(memory.tokens), self._boxes(memory.tokens, memory.centres)

    def best(self, memory: Memory, count: int) -> tuple[Tensor, Tensor]:
        """Returns logits (B, count, K) and boxes (B, count, 4) of the top-scoring cells over all classes."""
        logits = self.label_head(memory.tokens)
        score = logits.detach().amax(-1).masked_fill(memory.padding, float("-inf"))
        top = score.topk(min(count, score.shape[1]), dim=1).indices[..., None]
        tokens, centres = (x.gather(1, top.expand(-1, -1, x.shape[-1])) for x in (memory.tokens, memory.centres))
        return logits.gather(1, top.expand(-1, -1, logits.shape[-1])), self._boxes(tokens, centres)

    def _boxes(self, tokens: Tensor, centres: Tensor) -> Tensor:
        initial = torch.cat([centres, torch.full_like(centres, 0.2)], dim=-1)
        return (self.box_head.in_full_precision(tokens) + inverse_sigmoid(initial)).sigmoid()
