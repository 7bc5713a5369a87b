"""The attention of detected objects to the cells of a map."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from densevit.set_prediction.predictions import top_queries
from densevit_workbench.inspection.attention_layers import RecordedAttention


def cross_attention_of_objects(
    recorded: Sequence[RecordedAttention],
    outputs: Mapping[str, Any],
    size: tuple[int, int],
    stride: int,
    classification: str,
) -> Tensor:
    """The maps (N, h, w) of a head with plain cross-attention to a map of this stride: attention of the last decoder
    layer, the mean over its heads, in the order of `predict` (Carion et al. 2020, figure 6)."""
    weights = [one.weights for one in recorded if one.name.endswith("cross_attention")][-1]
    query = top_queries(outputs["logits"], classification == "softmax")[2][0]
    maps = weights[0].mean(0)[-outputs["logits"].shape[1] :]  # (Q, S)
    return maps[query].unflatten(1, (-(-size[0] // stride), -(-size[1] // stride)))
