"""GTR's queries: the features of the selected cells, and denoising queries that attend to no object query."""

from torch import Tensor, nn

from densevit.layers.mlp import Mlp
from densevit.losses.matching import Objects
from densevit.set_prediction.denoising import ContrastiveDenoising, DenoisingQueries
from densevit.set_prediction.query_selection import UncertaintyMinimalSelection

_HIDDEN = -1e4  # a finite attention bias: a padding query of an image without objects sees no other query


class UnprojectedSelection(UncertaintyMinimalSelection):
    """`UncertaintyMinimalSelection` without projection and norm: a selected cell's features are the query's content."""

    def __init__(self, num_queries: int, width: int, label_head: nn.Linear, box_head: Mlp) -> None:
        super().__init__(num_queries, width, label_head, box_head)
        self.project = self.norm = nn.Identity()  # type: ignore[assignment]
        nn.init.xavier_uniform_(label_head.weight)


class IsolatedDenoising(ContrastiveDenoising):
    """`ContrastiveDenoising` whose queries attend to the queries of their own group only, not to object queries."""

    def forward(self, objects: Objects, num_queries: int) -> DenoisingQueries:
        """The denoising queries of `NoisedObjects`."""
        noised = super().forward(objects, num_queries)
        D = noised.contents.shape[1]
        bias: Tensor = noised.attention_bias.clone()
        bias[..., :D, D:] = _HIDDEN
        return noised._replace(attention_bias=bias)
