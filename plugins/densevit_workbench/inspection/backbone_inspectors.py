"""Inspectors of built-in backbones, which read their public attributes: no plugin is imported here."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from densevit.errors import PluginError
from densevit_workbench.inspection.attention_layers import (
    AttentionLayer,
    Grid,
    RecordedAttention,
    global_layer,
    grid_of,
    windowed_layer,
)
from densevit_workbench.inspection.inspector import Inspector


class CeitInspector(Inspector):
    """The position table of CeiT, on its stored grid."""

    def positions(self, part: Any) -> Tensor | None:
        return part.position_table


class VitInspector(Inspector):
    """ViT: positions on their stored grid; attention of all blocks, windowed or global."""

    def positions(self, part: Any) -> Tensor | None:
        side, device = part.position_encoding.side, next(part.parameters()).device
        return part.position_embeddings((side, side), device)

    def attention(self, part: Any, recorded: Sequence[RecordedAttention], size: Grid) -> list[AttentionLayer]:
        grid, layers = grid_of(size, part.stride), []
        for name, _, weights in recorded:
            window = part.blocks[int(name.split(".")[1])].window
            layers.append(
                global_layer(name, weights, grid) if window is None else windowed_layer(name, weights, grid, window)
            )
        return layers


class SwinInspector(Inspector):
    """Swin: attention of all blocks, in their windows."""

    def attention(self, part: Any, recorded: Sequence[RecordedAttention], size: Grid) -> list[AttentionLayer]:
        grids = [grid_of(size, stride) for stride in part.strides]
        return [
            windowed_layer(name, weights, grids[int(name.split(".")[1])], module.window, module.shift, module.rule)
            for name, module, weights in recorded
        ]


class MvitInspector(Inspector):
    """MViT: the position table of version 1; attention of the output map of a block to its pooled input map."""

    def positions(self, part: Any) -> Tensor | None:
        return None if part.positions is None else part.positions.cells[0].permute(1, 2, 0)

    def attention(self, part: Any, recorded: Sequence[RecordedAttention], size: Grid) -> list[AttentionLayer]:
        layers, grid = [], grid_of(size, part.strides[0])
        for name, module, weights in recorded:
            if module.windows is not None:
                raise PluginError(f"{name}: attention in windows of pooled maps cannot be inspected.")
            keys = grid_of(grid, module.pool_key.stride)
            grid = grid_of(size, part.strides[int(name.split(".")[1])])
            layers.append(global_layer(name, weights, grid, keys))
        return layers
