"""What backbones and heads may have for `densevit inspect`. All methods are optional."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from densevit.errors import PluginError, one_line
from densevit.interfaces import Backbone, Head, Outputs
from densevit_workbench.inspection.attention_layers import AttentionLayer, Grid, RecordedAttention, layers_on_grids


def filters(backbone: Backbone) -> Tensor | None:
    """The filters of the patch embedding, (C, 3, k, k): `backbone.inspect_filters()`, by default the first convolution
    of three channels."""
    method = getattr(backbone, "inspect_filters", None)
    if method is not None:
        result: Tensor | None = method()
        return result
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return next((conv.weight for conv in convolutions if conv.weight.shape[1] == 3), None)


def positions(backbone: Backbone) -> Tensor | None:
    """The position embeddings of the cells of a map, (H, W, C): `backbone.inspect_positions()`, by default None."""
    method = getattr(backbone, "inspect_positions", None)
    return None if method is None else method()


def attention_layers(backbone: Backbone, recorded: Sequence[RecordedAttention], size: Grid) -> list[AttentionLayer]:
    """The attention of the backbone's layers for one image, on the cells of their maps:
    `backbone.inspect_attention(recorded, size)`.

    recorded: the attention weights of its modules, in the order of computation. size: (H, W) of the image. Default: the
    layers of global self-attention over ceil(H / s) x ceil(W / s) cells for one of the strides s, with at most 16
    tokens before the cells; windows and pooled keys need the method. Raises PluginError if it fails or returns invalid
    shapes or cells.
    """
    method = getattr(backbone, "inspect_attention", None)
    if method is None:
        strides = dict.fromkeys(backbone.strides)
        return layers_on_grids(recorded, [(-(-size[0] // s), -(-size[1] // s)) for s in strides])
    name = f"backbone {type(backbone).__name__}: inspect_attention"
    try:
        layers: list[AttentionLayer] = list(method(recorded, size))
    except Exception as error:
        raise PluginError(f"{name}: {type(error).__name__}: {one_line(error)}.") from error
    for layer in layers:
        _check(layer, name)
    return layers


def _check(layer: AttentionLayer, name: str) -> None:
    G, _, Q, K = (*layer.weights.shape, 0, 0, 0, 0)[:4]
    if layer.weights.ndim != 4 or layer.query_cells.shape != (G, Q) or layer.key_cells.shape != (G, K):
        raise PluginError(
            f"{name}: {layer.name} has weights {tuple(layer.weights.shape)}, query_cells "
            f"{tuple(layer.query_cells.shape)} and key_cells {tuple(layer.key_cells.shape)}; expected "
            "(G, heads, Q, K), (G, Q) and (G, K). Fix: build layers with global_layer and windowed_layer."
        )
    for cells, (height, width) in ((layer.query_cells, layer.query_grid), (layer.key_cells, layer.key_grid)):
        if cells.max() >= height * width:
            raise PluginError(
                f"{name}: {layer.name} has cell {int(cells.max())} on a grid of {height} x {width}; expected cells "
                f"below {height * width}, counted row by row."
            )


def object_maps(head: Head, recorded: Sequence[RecordedAttention], outputs: Outputs, size: Grid) -> Tensor | None:
    """The attention of each predicted object of one image to the cells of a map, (N, h, w), in the order of `predict`:
    `head.inspect_objects(recorded, outputs, size)`, by default None.

    recorded: the attention weights of the head's modules. size: (H, W) of the padded image, which the map covers.
    """
    method: Any = getattr(head, "inspect_objects", None)
    return None if method is None else method(recorded, outputs, size)
