"""Learned object queries (Deformable DETR, Zhu et al. 2021, A.2)."""

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.set_prediction.queries import Queries, QueryTable


class LearnedQueries(nn.Module):
    """Learned positions and contents; the reference point is predicted from the position (A.2)."""

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = QueryTable(num_queries, 2 * width)  # positions, then contents
        self.reference = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, batch_size: int) -> tuple[Queries, Tensor]:
        """Returns the same Q queries and reference points (B, Q, 2), xy in 0 ... 1, for each image."""
        positions, contents = self.embedding.weight.split(self.width, dim=-1)
        with autocast_off(positions.device):
            reference = F.linear(*(at_least_fp32(x) for x in (positions, self.reference.weight, self.reference.bias)))
        contents, positions, points = (x.expand(batch_size, -1, -1) for x in (contents, positions, reference.sigmoid()))
        return Queries(contents, positions), points
