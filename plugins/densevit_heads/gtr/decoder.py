"""GTR's decoder: D-FINE's, with SiLU and constant positions."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from densevit.layers.mlp import Mlp
from densevit.set_prediction.transformer import Transformer
from densevit_heads.parts.distributions.decoder import DistributionDecoder


class ConstantPositionDecoder(DistributionDecoder):
    """`DistributionDecoder` whose positions come from the boxes of the selected cells, in all layers. For the arguments
    see `DistributionDecoder`; all layers predict."""

    refined_positions: ClassVar[bool] = False

    def __init__(
        self,
        options: Transformer,
        num_points: Sequence[int],
        num_classes: int,
        num_bins: int,
        reg_scale: float,
        deterministic: bool = False,
    ) -> None:
        super().__init__(options, num_points, num_classes, 0, 1, num_bins, reg_scale, deterministic, nn.SiLU)
        self.positions = Mlp(4, options.width, options.width, 3, nn.SiLU)
        for layer in (self.positions[0], self.positions[2], self.positions[4]):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
