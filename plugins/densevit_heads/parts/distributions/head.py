"""The common part of heads whose decoder refines distributions of box edges (D-FINE, Peng et al. 2024)."""

from collections.abc import Sequence

from densevit.interfaces import Outputs, Targets
from densevit.set_prediction.denoising import ContrastiveDenoising
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.limits import MAX_LAYERS, check_counts
from densevit.set_prediction.queries import BoxQueries
from densevit.set_prediction.query_selection import SelectedQueries
from densevit_heads.parts.denoised_queries import with_denoising
from densevit_heads.parts.distributions.criterion import DfineCriterion
from densevit_heads.parts.distributions.decoder import DistributionDecoder, Refined

BOX_NOISE = 1.0  # of denoising queries, in half box sizes; a negative query's is 1 to 2


class DistributionHead(SetPredictionHead):
    """A head whose decoder refines distributions of box edges. A subclass sets the attributes in its constructor."""

    decoder: DistributionDecoder
    denoising: ContrastiveDenoising | None
    criterion: DfineCriterion

    def detect(
        self, selected: SelectedQueries, levels: Levels, targets: list[Targets] | None
    ) -> tuple[Outputs, Refined]:
        """The outputs of `Dfine.forward`, and the results of the decoder.

        selected: the selected cells of the levels. targets: used for denoising queries in training.
        """
        outputs: Outputs = {}
        queries = BoxQueries(selected.contents, selected.boxes.detach())
        queries, denoising = with_denoising(self.denoising, queries, targets if self.training else None, outputs)
        if denoising is not None:
            outputs["denoising"] = denoising
        refined = self.decoder(queries, levels, None if denoising is None else denoising.attention_bias)
        predicted, Q = self.decoder.predicting - 1 if self.training else -1, selected.boxes.shape[1]
        outputs |= {"logits": refined.logits[predicted, :, -Q:], "boxes": refined.boxes[predicted, :, -Q:]}
        if refined.initial_logits is not None:
            outputs["layers"] = refined.outputs(selected.logits, selected.boxes)
        return outputs, refined


def check_distributions(num_points: Sequence[int], num_bins: int, reg_scale: float) -> None:
    """Raises ValueError for invalid options of the decoder."""
    check_counts({"the number of num_points": len(num_points)}, 1, MAX_LAYERS)
    check_counts({"num_points": min(num_points)}, 1)
    if num_bins % 2 or num_bins < 4:
        raise ValueError(f"num_bins is {num_bins}; it must be even and at least 4.")
    if not reg_scale > 0:
        raise ValueError(f"reg_scale is {reg_scale:g}; it must be above 0.")
