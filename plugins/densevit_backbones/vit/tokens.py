"""The tokens that enter a ViT's blocks: class, distillation and register tokens, then the cells of the map."""

import torch
from torch import Tensor, nn

from densevit.interfaces import Backbone
from densevit.layers.positions import resize_grid
from densevit_backbones.vit.positions import PositionEncoding


class TokenEmbedding(Backbone):
    """The base class of ViT with its tokens and positions, whose weights have their keys at the top level of a ViT.

    class_token (ViT, Dosovitskiy et al. 2021, equation 1), distillation_token (DeiT, Touvron et al. 2021, section 4),
    registers (the number; Darcet et al. 2024): tokens before the cells, in this order, without positions.
    """

    def __init__(
        self, width: int, class_token: bool, distillation_token: bool, registers: int, encoding: PositionEncoding
    ) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, width)) if class_token else None
        self.distillation_token = nn.Parameter(torch.zeros(1, width)) if distillation_token else None
        self.register_tokens = nn.Parameter(torch.zeros(registers, width)) if registers else None
        self.position_encoding, side = encoding, encoding.side
        self.position_table = nn.Parameter(torch.zeros(side, side, width)) if encoding.has_table else None

    def tokens(self) -> list[nn.Parameter]:
        """The tokens before the cells, each (number, C)."""
        tokens = (self.class_token, self.distillation_token, self.register_tokens)
        return [token for token in tokens if token is not None]

    def token_parameters(self) -> list[nn.Parameter]:
        """The tokens and the position table."""
        return [*self.tokens(), *(() if self.position_table is None else (self.position_table,))]

    def position_embeddings(self, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        """The learned or sine positions that are added to the cells of a map, (H, W, C); None if there are none."""
        return self.position_encoding.added(self.position_table, grid, self.channels[-1], device)

    def embed(self, cells: Tensor) -> tuple[Tensor, int]:
        """(B, H, W, C) -> all tokens with their positions (B, P + H * W, C), and P, the tokens before cells."""
        x, (H, W) = cells.flatten(1, 2), cells.shape[1:3]
        table = self.position_embeddings((H, W), x.device)
        if table is not None:
            x = x + table.flatten(0, 1).to(x.dtype)
        tokens = [token.to(x.dtype).expand(x.shape[0], -1, -1) for token in self.tokens()]
        return (torch.cat([*tokens, x], dim=1) if tokens else x), sum(token.shape[1] for token in tokens)

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes a position table of another grid; see `densevit.weights.state_dict_loading.fit`."""
        if name != "position_table":
            return None
        side = self.position_encoding.side
        return resize_grid(tensor, (side, side), self.position_encoding.resizing), "interpolated"
