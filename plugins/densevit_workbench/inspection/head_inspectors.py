"""The inspector of DETR heads, which reads their public attributes: no plugin is imported here."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from densevit.set_prediction.predictions import class_scores, top_scores
from densevit_workbench.inspection.attention_layers import Grid, RecordedAttention, grid_of
from densevit_workbench.inspection.inspector import Inspector


class DetrInspector(Inspector):
    """Detected objects of a head with plain cross-attention to one map: attention of the last decoder layer."""

    def objects(
        self, part: Any, recorded: Sequence[RecordedAttention], outputs: dict[str, Any], size: Grid
    ) -> Tensor | None:
        """The mean over the heads of the layer (Carion et al. 2020, figure 6)."""
        weights = [layer.weights for layer in recorded if layer.name.endswith("cross_attention")][-1]
        query = top_scores(class_scores(outputs["logits"], part.softmax), part.softmax)[2][0]
        maps = weights[0].mean(0)[-outputs["logits"].shape[1] :]  # (Q, S)
        return maps[query].unflatten(1, grid_of(size, part.project.stride))
