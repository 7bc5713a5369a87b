"""Two-stage queries in groups (Group DETR, Chen et al. 2023; LW-DETR, Chen et al. 2024, section 3.1)."""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.mlp import Mlp
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.queries import BoxQueries, QueryTable, TopCells
from densevit.set_prediction.query_selection import initial_boxes
from densevit_heads.parts.query_groups import regrouped

_BACKGROUND = -20.0  # a class logit, of a probability of 2e-9


class GroupProposals(NamedTuple):
    """The selected cells of G groups. logits: (B, G, Q, K). boxes: (B, G, Q, 4) cxcywh. features: (B, G, Q, C)."""

    logits: Tensor
    boxes: Tensor
    features: Tensor


def reparameterized(reference: Tensor, offsets: Tensor) -> Tensor:
    """Boxes (..., 4) cxcywh whose offsets (..., 4) are relative to a reference (..., 4), as in Faster R-CNN.

    Centres move by shares of the reference's sides, and sides change by factors exp(offset). Boxes may leave the image.
    """
    centres, sides = reference.split(2, dim=-1)
    moved, scaled = offsets.split(2, dim=-1)
    return torch.cat([centres + moved * sides, scaled.exp() * sides], dim=-1)


class ProposalGroup(nn.Module):
    """Selects the cells with the highest class scores; cells that propose no box (`initial_boxes`) come last.

    In the authors' code such cells are ranked by features of 0. The maps of RF-DETR's releases, of at most 44 x 44
    cells without padding, have no such cells.
    """

    def __init__(self, width: int, label_head: nn.Linear, box_head: Mlp) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.label_head, self.box_head, self.top_cells = copy.deepcopy(label_head), copy.deepcopy(box_head), TopCells()
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, memory: Tensor, initial: Tensor, valid: Tensor, num_queries: int) -> GroupProposals:
        """memory: (B, S, C). initial: (B, S, 4). valid: (B, S) bool. Returns tensors (B, Q, ...)."""
        features = self.norm(self.project(memory))
        logits = self.label_head(features)
        scores = logits.amax(-1).float()
        logits, features, initial = self.top_cells(scores, ~valid, num_queries, logits, features, initial)
        return GroupProposals(logits, reparameterized(initial, self.box_head.in_full_precision(features)), features)


class GroupQueries(nn.Module):
    """G groups of queries in training, each with its own proposals and contents; in evaluation only the first group.

    A query's box is its proposal's box plus learned offsets. Contents and offsets have a row of each query and group.
    With fewer cells than queries, the offsets of the last queries are their boxes, as in the authors' code.
    """

    def __init__(self, num_queries: int, num_groups: int, width: int, label_head: nn.Linear, box_head: Mlp) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.groups = nn.ModuleList(ProposalGroup(width, label_head, box_head) for _ in range(num_groups))
        self.contents = QueryTable(num_queries, width, num_groups)
        self.offsets = QueryTable(num_queries, 4, num_groups)
        nn.init.zeros_(self.offsets.weight)

    def carried_state(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str] | None:
        """The state for this number of groups; see `densevit.weights.state_dict_loading.fit`."""
        return regrouped(state, len(self.groups), ("contents.weight", "offsets.weight"))

    def forward(self, levels: Levels) -> tuple[GroupProposals, BoxQueries]:
        """Returns the proposals, and the queries (B, G * Q, ...), group by group; in evaluation G is 1.

        Q is `num_queries`. If there are fewer cells, the last proposals of each group have features of 0 and the class
        logits of background.
        """
        initial, valid = initial_boxes(levels)
        memory, initial = (x.masked_fill(~valid[..., None], 0.0) for x in (levels.tokens, initial))
        groups = list(self.groups) if self.training else [self.groups[0]]
        by_group = [group(memory, initial, valid, self.num_queries) for group in groups]
        proposals = GroupProposals(*(torch.stack(parts, dim=1) for parts in zip(*by_group, strict=True)))
        B, G, S = proposals.boxes.shape[:3]
        contents, offsets = (x.weight[: G * self.num_queries] for x in (self.contents, self.offsets))
        boxes = reparameterized(proposals.boxes.detach().flatten(1, 2), offsets[: G * S])
        remaining = offsets[G * S :]
        if self.training:  # the losses are undefined for negative sides, at which the authors' code stops
            remaining = torch.cat([remaining[:, :2], remaining[:, 2:].clamp(min=0)], dim=1)
        boxes = torch.cat([boxes, remaining.expand(B, -1, -1)], dim=1)
        missing = (0, 0, 0, self.num_queries - S)
        values = (_BACKGROUND, 1.0, 0.0)
        padded = (F.pad(x, missing, value=value) for x, value in zip(proposals, values, strict=True))
        return GroupProposals(*padded), BoxQueries(contents.expand(B, -1, -1), boxes)
