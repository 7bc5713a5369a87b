"""The Deformable DETR head: model, loss and post-processing."""

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Head, Losses, Outputs, Predictions, Targets
from densevit.losses.boxes import to_corners
from densevit.losses.distributed import to_device
from densevit.losses.matching import Objects
from densevit_heads.deformable_detr.criterion import proposal_loss, set_criterion
from densevit_heads.deformable_detr.levels import GROUPS, LevelProjections, Levels
from densevit_heads.deformable_detr.prediction import box_head, label_head, refine
from densevit_heads.deformable_detr.queries import LearnedQueries, Queries, TwoStage
from densevit_heads.deformable_detr.transformer import DecoderLayer, EncoderLayer

_MAX_LAYERS = 1000  # a typo must not allocate layers until memory runs out


class DeformableDetr(Head):
    """DETR with attention to a few sampling points of several feature levels (Zhu et al. 2021).

    The defaults are the paper's.

    num_levels: number of feature levels; 1: the coarsest feature only ("single-scale").
    min_stride: finest stride of the features to use. Levels coarser than all features are added by convolutions.
    num_points: sampling points of each query, attention head and level.
    ffn_width: width of the hidden layer of feed-forward networks.
    box_refinement: each decoder layer refines the boxes of the layer before ("iterative bounding box refinement").
    two_stage: queries are the best of the boxes that the encoder proposes, instead of learned; needs box_refinement.
    """

    task = "detection"
    needs = ("boxes", "labels")

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 300,
        width: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        min_stride: int = 8,
        num_points: int = 4,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        ffn_width: int = 1024,
        dropout: float = 0.1,
        box_refinement: bool = False,
        two_stage: bool = False,
    ) -> None:
        super().__init__(channels, strides, classes)
        if two_stage and not box_refinement:
            raise ValueError("two_stage gives the decoder boxes to refine. Fix: set box_refinement to true.")
        counts = {"num_queries": num_queries, "num_heads": num_heads, "num_levels": num_levels}
        counts |= {"min_stride": min_stride, "num_points": num_points, "encoder_layers": encoder_layers}
        counts |= {"decoder_layers": decoder_layers, "ffn_width": ffn_width}
        for option, count in counts.items():
            if count < 1:
                raise ValueError(f"{option} is {count}; it must be at least 1.")
            if count > _MAX_LAYERS and option in ("num_levels", "num_points", "encoder_layers", "decoder_layers"):
                raise ValueError(f"{option} is {count}; it must be at most {_MAX_LAYERS}.")
        if width % GROUPS or width < GROUPS:
            raise ValueError(f"width is {width}; it must be a multiple of {GROUPS}, the groups of the group norm.")
        if not classes:
            raise ValueError("The detection data has no classes; at least one is needed.")
        self.num_queries, self.box_refinement = num_queries, box_refinement

        self.levels = LevelProjections(channels, strides, width, num_levels, min_stride)
        layer = (width, num_heads, num_levels, num_points, ffn_width, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(decoder_layers))
        labels, boxes = label_head(width, len(classes)), box_head(width)
        heads = decoder_layers if box_refinement else 1  # without refinement the layers share them
        self.label_heads = nn.ModuleList(copy.deepcopy(labels) for _ in range(heads))
        self.box_heads = nn.ModuleList(copy.deepcopy(boxes) for _ in range(heads))
        self.queries: LearnedQueries | TwoStage
        if two_stage:
            self.queries = TwoStage(num_queries, width, labels, boxes)
        else:
            self.queries = LearnedQueries(num_queries, width)
            nn.init.constant_(self.box_heads[0][-1].bias[2:], -2.0)  # type: ignore[index]  # width, height: 0.12
        self._warned = False

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...).

        With `two_stage`, also `proposals`: logits (B, S, K) and boxes (B, S, 4).
        """
        levels = self.levels(features, padding_mask)
        memory, reference = levels.tokens, levels.on_maps(levels.centres)
        for layer in self.encoder:
            memory = layer(memory, levels, reference)
        outputs: Outputs = {}
        if isinstance(self.queries, TwoStage):
            proposals = self.queries.propose(memory, levels)
            queries = self.queries.select(proposals)
            outputs["proposals"] = (proposals.logits, proposals.boxes)
        else:
            queries = self.queries(len(memory))
        logits, boxes = self._decode(queries, memory, levels)
        return {**outputs, "logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}

    def _decode(self, queries: Queries, memory: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Returns logits (L, B, Q, K) and boxes (L, B, Q, 4)."""
        positions, x, reference = queries
        logits, boxes = [], []
        for i, layer in enumerate(self.decoder):
            x = layer(x, positions, levels.on_maps(reference), memory, levels.shapes, levels.padding)
            head = i if self.box_refinement else 0
            logits.append(self.label_heads[head](x))
            boxes.append(refine(self.box_heads[head], x, reference))  # type: ignore[arg-type]  # an Mlp
            if self.box_refinement:
                reference = boxes[-1].detach()
        return torch.stack(logits), torch.stack(boxes)

    def loss(self, outputs: Outputs, targets: list[Targets]) -> Losses:
        """Returns `label`, `l1`, `giou` of the last layer, `auxiliary` (sum of the others) and, if any, `proposals`."""
        labelled = [i for i, target in enumerate(targets) if "boxes" in target and "labels" in target]
        logits, boxes = outputs["layers"]
        proposals = outputs.get("proposals")
        objects = Objects.of(targets, logits.device).select(labelled)
        self._warn_of_too_many(objects)
        if len(labelled) < len(targets):
            chosen = to_device(torch.tensor(labelled, dtype=torch.long), logits.device)
            logits, boxes = logits.index_select(1, chosen), boxes.index_select(1, chosen)
            if proposals is not None:
                proposals = [x.index_select(0, chosen) for x in proposals]
        terms = set_criterion(logits, boxes, objects)
        losses = {name: term[-1] for name, term in terms.items()}
        losses["auxiliary"] = torch.stack([term[:-1].sum() for term in terms.values()]).sum()
        if proposals is not None:
            losses["proposals"] = proposal_loss(proposals[0], proposals[1], objects)
        return losses

    def _warn_of_too_many(self, objects: Objects) -> None:
        """Warns once of an image with more objects than queries."""
        most = max(objects.counts, default=0)
        if self._warned or most <= self.num_queries:
            return
        self._warned = True
        warnings.warn(
            f"deformable_detr: image {objects.names[objects.counts.index(most)]!r} has {most} objects, but num_queries "
            f"is {self.num_queries}: {most - self.num_queries} of them are not learned, and no image can get more than "
            f"{self.num_queries} predictions. Fix: set num_queries to at least {most}.",
            stacklevel=3,
        )

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns the Q top-scoring (query, class) pairs by descending score."""
        logits, boxes = outputs["logits"].float(), to_corners(outputs["boxes"].float())
        scores, index = logits.sigmoid().flatten(1).topk(logits.shape[1], dim=1)
        query, labels = index // logits.shape[-1], index % logits.shape[-1]
        boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4)).clamp(0, 1)
        sizes = torch.tensor([target["original_size"] for target in targets], dtype=torch.float32)
        boxes = boxes * to_device(sizes, boxes.device).flip(-1).repeat(1, 2)[:, None]
        return [{"boxes": boxes[i], "scores": scores[i], "labels": labels[i]} for i in range(len(targets))]
