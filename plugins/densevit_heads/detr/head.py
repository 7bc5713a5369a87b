"""The DETR head: model, loss and post-processing."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Head, Losses, Outputs, Predictions, Targets
from densevit.layers.mlp import Mlp
from densevit.layers.positions import LearnedPositions, mask_on_grid, sine_map
from densevit.losses.boxes import to_corners
from densevit.losses.dense_detection import dense_detection
from densevit.losses.distributed import to_device
from densevit.losses.matching import Matches, MatchingCosts, Objects, hungarian
from densevit.losses.set_prediction import Classification, SetLosses, set_losses
from densevit_heads.detr.anchors import BoxPositionBias, BoxPositions, inverse_sigmoid
from densevit_heads.detr.denoising import Denoising
from densevit_heads.detr.memory import CoarsestProjection, FusedProjection, Memory, cell_centres
from densevit_heads.detr.proposals import Proposals
from densevit_heads.detr.transformer import DecoderLayer, EncoderLayer

_MAX_LAYERS = 1000  # a typo must not allocate layers until memory runs out


class Detr(Head):
    """Detection as set prediction, with bipartite matching and no NMS (Carion et al. 2020).

    The defaults are the paper's. The options after `auxiliary_losses` come from later papers on faster convergence and
    are off by default; `position_bias`, `two_stage` and `denoising` need `anchors`.

    positions: "sine", counted over the image without padding, or "learned" row and column embeddings.
    pre_norm: layer norm before each branch instead of after it.
    no_object_weight: weight of "no object" in the class loss, for "softmax" only.
    label_cost, l1_cost, giou_cost: weights of the matching cost. label_weight, l1_weight, giou_weight: of the loss.
    auxiliary_losses: a loss after each decoder layer instead of the last only.
    memory_stride: finest stride of the features to use, coarser ones are fused into it; None: the coarsest only.
    fusion_blocks: residual convolution blocks after the fusion (RT-DETR).
    classification: "softmax" with a no-object class, "focal" (Deformable DETR), or "mal", the matchability-aware loss
        whose target depends on the IoU of the box (DEIM).
    anchors: queries are boxes, refined by each decoder layer (DAB-DETR).
    position_bias: biases cross-attention by the position of a cell relative to the box (SMCA, Plain DETR).
    two_stage: initial boxes are the top-scoring proposals, one per cell (Deformable DETR, A.4), instead of learned.
    denoising: number of groups of denoising queries in training (DN-DETR); 0 disables.
    dense_loss: weight of a one-to-many loss on all cells in training; 0 disables.
    """

    task = "detection"
    needs = ("boxes", "labels")

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        num_queries: int = 100,
        width: int = 256,
        num_heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        feedforward: int = 2048,
        dropout: float = 0.1,
        positions: Literal["sine", "learned"] = "sine",
        pre_norm: bool = False,
        no_object_weight: float = 0.1,
        label_cost: float = 1.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        label_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        auxiliary_losses: bool = True,
        memory_stride: int | None = None,
        fusion_blocks: int = 0,
        classification: Classification = "softmax",
        anchors: bool = False,
        position_bias: bool = False,
        two_stage: bool = False,
        denoising: int = 0,
        dense_loss: float = 0.0,
    ) -> None:
        super().__init__(channels, strides, classes)
        for option, value in {"position_bias": position_bias, "two_stage": two_stage, "denoising": denoising}.items():
            if value and not anchors:
                raise ValueError(f"{option} needs box queries. Fix: set anchors to true.")
        if fusion_blocks and memory_stride is None:
            raise ValueError("fusion_blocks need fused features. Fix: set memory_stride.")
        if two_stage and classification == "softmax":
            raise ValueError(
                "two_stage ranks cells by class scores without 'no object'. Fix: set classification to mal or focal."
            )
        if two_stage and not auxiliary_losses:
            raise ValueError("two_stage trains its proposals by an auxiliary loss. Fix: set auxiliary_losses to true.")
        counts = {"num_queries": (num_queries, 1), "decoder_layers": (decoder_layers, 1)}
        counts |= {"encoder_layers": (encoder_layers, 0), "denoising": (denoising, 0), "num_heads": (num_heads, 1)}
        counts |= {"feedforward": (feedforward, 1), "fusion_blocks": (fusion_blocks, 0)}
        counts |= {"memory_stride": (1 if memory_stride is None else memory_stride, 1)}
        for option, (count, minimum) in counts.items():
            if count < minimum:
                raise ValueError(f"{option} is {count}; it must be at least {minimum}.")
            if count > _MAX_LAYERS and option in ("encoder_layers", "decoder_layers", "fusion_blocks"):
                raise ValueError(f"{option} is {count}; it must be at most {_MAX_LAYERS}.")
        weights = {"no_object_weight": no_object_weight, "label_cost": label_cost, "l1_cost": l1_cost}
        weights |= {"giou_cost": giou_cost, "label_weight": label_weight, "l1_weight": l1_weight}
        weights |= {"giou_weight": giou_weight, "dense_loss": dense_loss}
        for option, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{option} is {weight:g}; a weight must be at least 0.")
        if width % 4 or width < 4:
            raise ValueError(f"width is {width}; it must be a multiple of 4 (sine and cosine of rows and columns).")
        if not classes:
            raise ValueError("The detection data has no classes; at least one is needed.")
        K = len(classes)
        self.num_queries, self.auxiliary_losses, self.classification = num_queries, auxiliary_losses, classification
        self.no_object_weight, self.dense_weight = no_object_weight, dense_loss
        self.costs = MatchingCosts(label_cost, l1_cost, giou_cost)
        self.weights = (label_weight, l1_weight, giou_weight)

        self.project: CoarsestProjection | FusedProjection
        if memory_stride is None:
            self.project = CoarsestProjection(channels, strides, width)
        else:
            self.project = FusedProjection(channels, strides, width, memory_stride, fusion_blocks)
        self.positions = LearnedPositions(width) if positions == "learned" else None
        layer = (width, num_heads, feedforward, dropout, pre_norm)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(encoder_layers))
        self.encoder_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.label_head = nn.Linear(width, K + (classification == "softmax"))
        self.box_head = Mlp(width, width, 4, 3)

        self.query_embedding = nn.Embedding(num_queries, width)  # positions in DETR, contents with anchors
        self.anchors = nn.Parameter(inverse_sigmoid(torch.rand(num_queries, 4))) if anchors and not two_stage else None
        self.box_positions = BoxPositions(width) if anchors else None
        self.position_bias = BoxPositionBias(num_heads) if position_bias else None
        self.proposals = Proposals(width, K) if two_stage else None
        self.denoising = Denoising(width, K, denoising) if denoising else None
        self.dense = Proposals(width, K) if dense_loss else None
        self._initialise()

    def _initialise(self) -> None:
        if self.classification != "softmax":
            nn.init.constant_(self.label_head.bias, -4.6)  # a probability of 0.01
        if self.box_positions is not None:  # the refinement starts at zero
            nn.init.zeros_(self.box_head.last.weight)
            nn.init.zeros_(self.box_head.last.bias)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, Q, K+1 or K) and `boxes` (B, Q, 4) of the last layer, and of all `layers`, (L, B, Q, ...).

        With `two_stage`, the proposals are the first layer. Training adds `dense` and `denoising` for the loss.
        """
        memory = self._encode(features, padding_mask)
        outputs: Outputs = {}
        if self.training and self.dense is not None:
            outputs["dense"] = (*self.dense(memory), memory.centres, memory.padding)  # each (B, S, ...)
        if self.box_positions is None:
            logits, boxes = self._decode(memory)
        else:
            logits, boxes = self._decode_boxes(memory, targets if self.training else None, outputs)
        return {**outputs, "logits": logits[-1], "boxes": boxes[-1], "layers": (logits, boxes)}

    def _encode(self, features: list[Tensor], padding_mask: Tensor) -> Memory:
        x = self.project(features)
        size = (x.shape[-2], x.shape[-1])
        padding = mask_on_grid(padding_mask, size)
        encoding = sine_map(padding, x.shape[1]) if self.positions is None else self.positions(padding)
        positions = encoding.flatten(1, 2).to(x.dtype)  # (B, S, C)
        padding = padding.flatten(1)
        attention_bias = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))[:, None, None]
        x = x.flatten(2).transpose(1, 2)  # (B, S, C)
        for layer in self.encoder:
            x = layer(x, positions, attention_bias)
        x = self.encoder_norm(x)
        centres, cell = cell_centres(padding_mask, size, self.project.stride)
        return Memory(x, x + positions, padding, attention_bias, centres, cell, size)

    def _decode(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """DETR's decoder with learned query positions. Returns logits (L, B, Q, K+1) and boxes (L, B, Q, 4)."""
        positions = self.query_embedding.weight.expand(len(memory.tokens), -1, -1)
        queries = torch.zeros_like(positions)
        states = []
        for layer in self.decoder:
            queries = layer(queries, positions, memory.tokens, memory.with_pos, memory.attention_bias)
            states.append(self.decoder_norm(queries))
        x = torch.stack(states)
        return self.label_head(x), self._box_offsets(x).sigmoid()

    def _decode_boxes(self, memory: Memory, targets: list[Targets] | None, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Decoder with box queries, refined by each layer. Returns logits (L, B, Q, K) and boxes (L, B, Q, 4)."""
        assert self.box_positions is not None
        B = len(memory.tokens)
        queries = self.query_embedding.weight.expand(B, -1, -1)
        proposals: list[tuple[Tensor, Tensor]] = []
        if self.proposals is None:
            assert self.anchors is not None
            boxes = self.anchors.sigmoid().expand(B, -1, -1)
        else:
            proposals = [self.proposals.best(memory, self.num_queries)]
            boxes = proposals[0][1].detach()
            queries = queries[:, : boxes.shape[1]]  # a small feature map has fewer cells than queries

        denoising = None
        if self.denoising is not None and targets is not None:
            objects = Objects.of(targets, boxes.device)
            outputs["objects"] = objects
            denoising = self.denoising(objects, queries.shape[1])
            queries = torch.cat([denoising.queries, queries], dim=1)
            boxes = torch.cat([denoising.boxes, boxes], dim=1)

        states, refined = [], []
        for layer in self.decoder:
            attention_bias = memory.attention_bias
            if self.position_bias is not None:
                position_bias = self.position_bias(boxes, memory)
                attention_bias = attention_bias.to(position_bias.dtype) + position_bias
            positions = self.box_positions(boxes)
            query_bias = None if denoising is None else denoising.attention_bias
            queries = layer(queries, positions, memory.tokens, memory.with_pos, attention_bias, query_bias)
            states.append(self.decoder_norm(queries))
            refined.append((self._box_offsets(states[-1]) + inverse_sigmoid(boxes)).sigmoid())
            boxes = refined[-1].detach()
        logits, all_boxes = self.label_head(torch.stack(states)), torch.stack(refined)

        if denoising is not None:
            D = denoising.queries.shape[1]
            index = (slice(None), denoising.image, denoising.query)
            outputs["denoising"] = (logits[index], all_boxes[index], denoising.target)  # (L, P, ...)
            logits, all_boxes = logits[:, :, D:], all_boxes[:, :, D:]
        if proposals:
            logits = torch.cat([proposals[0][0][None].to(logits.dtype), logits])
            all_boxes = torch.cat([proposals[0][1][None], all_boxes])
        return logits, all_boxes

    def _box_offsets(self, x: Tensor) -> Tensor:
        return self.box_head.in_full_precision(x)

    def loss(self, outputs: Outputs, targets: list[Targets]) -> Losses:
        """Returns `label`, `l1`, `giou` of the last layer, `auxiliary` (sum of the others), `denoising` and `dense`."""
        labelled = [i for i, target in enumerate(targets) if "boxes" in target and "labels" in target]
        logits, boxes = outputs["layers"]
        objects = outputs.get("objects")  # already collected in the forward pass for denoising
        if objects is None:
            objects = Objects.of(targets, logits.device)
        objects = objects.select(labelled)
        chosen = None
        if len(labelled) < len(targets):
            chosen = to_device(torch.tensor(labelled, dtype=torch.long), logits.device)
            logits, boxes = logits.index_select(1, chosen), boxes.index_select(1, chosen)
        if not self.auxiliary_losses:
            logits, boxes = logits[-1:], boxes[-1:]
        matches = hungarian(logits, boxes, objects, self.costs, softmax=self.classification == "softmax")
        terms = self._weighted(set_losses(logits, boxes, objects, matches, self.classification, self.no_object_weight))
        losses = {name: term[-1] for name, term in terms.items()}
        if self.auxiliary_losses:
            losses["auxiliary"] = torch.stack([term[:-1].sum() for term in terms.values()]).sum()
        if self.denoising is not None:
            losses["denoising"] = self._denoising_loss(outputs, objects)
        if self.dense is not None:
            losses["dense"] = self._dense_loss(outputs, objects, chosen)
        return losses

    def _weighted(self, terms: SetLosses) -> dict[str, Tensor]:
        return {name: w * term for name, w, term in zip(terms._fields, self.weights, terms, strict=True)}

    def _denoising_loss(self, outputs: Outputs, objects: Objects) -> Tensor:
        """Reconstruction loss of the denoising queries, summed over layers and terms."""
        if "denoising" not in outputs:  # not in training
            return outputs["logits"].new_zeros(())
        logits, boxes, target = outputs["denoising"]
        L, P = logits.shape[:2]
        layer = torch.arange(L, device=target.device).repeat_interleave(P)
        query = torch.arange(P, device=target.device).repeat(L)
        matches = Matches(layer, torch.zeros_like(layer), query, target.repeat(L))
        count = torch.full((), float(P), device=target.device)
        terms = set_losses(logits[:, None], boxes[:, None], objects, matches, self.classification, 1.0, count)
        return torch.stack([term.sum() for term in self._weighted(terms).values()]).sum()

    def _dense_loss(self, outputs: Outputs, objects: Objects, chosen: Tensor | None) -> Tensor:
        """chosen: indices of the labelled images; None if all are labelled."""
        if "dense" not in outputs:  # not in training
            return outputs["logits"].new_zeros(())
        dense = outputs["dense"]
        logits, boxes, centres, padding = dense if chosen is None else (x.index_select(0, chosen) for x in dense)
        terms = dense_detection(logits, boxes, centres, padding, objects)
        return self.dense_weight * torch.stack(list(self._weighted(terms).values())).sum()

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns the Q top-scoring (query, class) pairs by descending score; with softmax, one class per query."""
        logits, boxes = outputs["logits"].float(), to_corners(outputs["boxes"].float())
        B, Q, _ = logits.shape
        if self.classification == "softmax":
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            scores, query = scores.sort(dim=1, descending=True, stable=True)
            labels = labels.gather(1, query)
        else:
            scores, index = logits.sigmoid().flatten(1).topk(Q, dim=1)
            query, labels = index // logits.shape[-1], index % logits.shape[-1]
        boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4)).clamp(0, 1)
        sizes = torch.tensor([target["original_size"] for target in targets], dtype=torch.float32)
        boxes = boxes * to_device(sizes, boxes.device).flip(-1).repeat(1, 2)[:, None]
        return [{"boxes": boxes[i], "scores": scores[i], "labels": labels[i]} for i in range(B)]
