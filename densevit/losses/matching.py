"""Bipartite matching of predictions to objects (DETR, Carion et al. 2020, section 3.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import DensevitError
from densevit.layers.precision import autocast_off
from densevit.losses.argument_shapes import check_shapes
from densevit.losses.boxes import has_objects, overlaps, to_centres, to_corners
from densevit.losses.distributed import to_device


class Objects(NamedTuple):
    """The T objects of all images of a batch, concatenated.

    boxes: (T, 4) normalised cxcywh. labels: (T,). image: (T,), index in the batch. counts: objects per image.
    names: image ids, for messages. labelled: the result of `labelled_classes`. label_weights: (T,), see
    `with_label_weights`; None: all are 1.
    """

    boxes: Tensor
    labels: Tensor
    image: Tensor
    counts: list[int]
    names: list[int | str]
    labelled: Tensor | None = None
    label_weights: Tensor | None = None

    @classmethod
    def of(cls, targets: "Objects | Sequence[Mapping[str, Any]]", device: torch.device) -> "Objects":
        """Collects `boxes` (N, 4), xyxy in pixels, and `labels` (N,) of the targets of each image; its `size` (h, w)
        normalises the boxes. Objects are returned as they are.

        Images without these keys have no objects. Does not synchronise with the device: counts, sizes and image
        indices are created on the CPU. Raises DensevitError if a target has no `size`.
        """
        if isinstance(targets, Objects):
            return targets
        labelled = [target for target in targets if has_objects(target)]
        counts = [len(target["boxes"]) if has_objects(target) else 0 for target in targets]
        names = [target.get("image_id", i) for i, target in enumerate(targets)]
        classes = labelled_classes(targets, device)
        if not any(counts):
            empty = torch.zeros(0, dtype=torch.long, device=device)
            return cls(torch.zeros(0, 4, device=device), empty, empty, counts, names, classes)
        if unsized := [i for i, target in enumerate(targets) if "size" not in target]:
            raise DensevitError(
                f"targets[{unsized[0]}] has no size, by which boxes are divided. Fix: set it to the (height, width) of "
                "its image in pixels; to (1, 1) for boxes in 0 ... 1."
            )
        image = torch.repeat_interleave(torch.tensor(counts))
        sizes = torch.tensor([target["size"] for target in targets], dtype=torch.float32).flip(-1).repeat(1, 2)[image]
        boxes = to_device(torch.cat([target["boxes"].float() for target in labelled]), device)
        labels = to_device(torch.cat([target["labels"] for target in labelled]), device)
        boxes = to_centres(boxes / to_device(sizes, device))
        weights = label_weights(labelled, device)
        return cls(boxes, labels, to_device(image, device), counts, names, classes, weights)

    def select(self, images: list[int]) -> "Objects":
        """Re-indexes `image` for a sub-batch of these images, which must contain all objects."""
        if len(images) == len(self.counts):
            return self
        counts, names = [self.counts[i] for i in images], [self.names[i] for i in images]
        image = to_device(torch.repeat_interleave(torch.tensor(counts, dtype=torch.long)), self.boxes.device)
        rows = (
            None
            if self.labelled is None
            else self.labelled[to_device(torch.tensor(images, dtype=torch.long), image.device)]
        )
        return self._replace(image=image, counts=counts, names=names, labelled=rows)


def label_weights(targets: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor | None:
    """`label_weights` of all objects, (T,); 1 in images without it. None: no image has it."""
    if not any("label_weights" in target for target in targets):
        return None
    rows = [target.get("label_weights", torch.ones_like(target["labels"])).float() for target in targets]
    return to_device(torch.cat(rows), device)


def labelled_classes(targets: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor | None:
    """`labelled` of the images, (B, 1, K) bool; True for images without it. None: no image has it."""
    rows = [target.get("labelled") for target in targets]
    first = next((row for row in rows if row is not None), None)
    if first is None:
        return None
    stacked = torch.stack([torch.ones_like(first) if row is None else row for row in rows])
    return to_device(stacked[:, None], device)


class MatchedPairs(NamedTuple):
    """The M matched pairs of predictions and objects in each of L layers, in the order of images.

    image: (M,), the same in all layers. query, target: (L, M), the latter among all T objects. The matched ones of
    boxes (L, B, Q, 4) are `boxes[pairs.layer, pairs.image, pairs.query]`, (L, M, 4).
    """

    image: Tensor
    query: Tensor
    target: Tensor

    @classmethod
    def from_queries(cls, target: Tensor, layers: int) -> "MatchedPairs":
        """The pairs of the first P queries of one image with their objects, target: (P,), the same in each layer."""
        query = torch.arange(len(target), device=target.device)
        return cls(torch.zeros_like(query), query.expand(layers, -1), target.expand(layers, -1))

    @property
    def layer(self) -> Tensor:
        """The layers, (L, 1)."""
        return torch.arange(len(self.query), device=self.query.device)[:, None]

    def to(self, device: torch.device) -> "MatchedPairs":
        """The pairs on another device."""
        return MatchedPairs(*(to_device(x, device) for x in self))

    def by_query(self) -> "MatchedPairs":
        """The pairs in the order of images and of their queries."""
        order = (self.image * 2**32 + self.query).argsort(1)
        return self._replace(query=self.query.gather(1, order), target=self.target.gather(1, order))


@dataclass(frozen=True)
class TermWeights:
    """Weights of the terms of equations 1 and 2; the defaults are DETR's."""

    label: float = 1.0
    l1: float = 5.0
    giou: float = 2.0

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if weight < 0:
                raise ValueError(f"{name} is {weight:g}; a weight must be at least 0.")


class MatchingCosts(TermWeights):
    """Weights of the matching costs of a pair: of its class, of the L1 distance and of the GIoU of its boxes."""


_LARGEST_COST = 1e6  # in place of a cost that is not finite


@torch.no_grad()
def matching_costs(
    logits: Tensor,
    boxes: Tensor,
    objects: Objects,
    weights: MatchingCosts = MatchingCosts(),
    softmax: bool = True,
) -> Tensor:
    """Matching costs of each object with the queries of its own image, for all layers at once.

    logits: (L, B, Q, K+1), or K without softmax. boxes: (L, B, Q, 4) cxcywh. Returns (L, T, Q) in float32.
    The class cost is -p with softmax, otherwise the difference of focal losses (Deformable DETR).
    """
    with autocast_off(logits.device):
        logits, boxes = logits.float(), boxes.float()
        if softmax:
            p = class_probabilities(logits, objects.labels, objects.image, objects.labelled)
            cost = p.mul_(-weights.label)
        else:
            p = logits.transpose(2, 3)[:, objects.image, objects.labels].sigmoid()  # only the needed columns
            q = 1 - p
            cost = (0.75 * p**2 * (q + 1e-8).log() - 0.25 * q**2 * (p + 1e-8).log()).mul_(weights.label)
        truth = objects.boxes[:, None]  # (T, 1, 4)
        distance = (_candidate_boxes(boxes, objects.image) - truth).abs_().sum(-1)
        _, giou = overlaps(_candidate_boxes(to_corners(boxes), objects.image), to_corners(truth))
        return cost.add_(distance, alpha=weights.l1).sub_(giou, alpha=weights.giou)


def class_probabilities(logits: Tensor, labels: Tensor, image: Tensor, labelled: Tensor | None) -> Tensor:
    """The softmax of each object's class for the queries of its image, (L, T, Q), over its class, "no object" and the
    other classes that are labelled in the image.

    logits: (L, B, Q, K+1). labels, image: (T,). labelled: (B, 1, K) bool; None: all classes.
    """
    if labelled is None:
        return logits.softmax(-1).transpose(2, 3)[:, image, labels]
    x = logits.transpose(2, 3)[:, image, labels]
    total = logits.masked_fill(~F.pad(labelled, (0, 1), value=True), -torch.inf).logsumexp(-1)[:, image]
    return (x - torch.where(labelled[image, 0, labels][:, None], total, total.logaddexp(x))).exp()


def _candidate_boxes(boxes: Tensor, image: Tensor) -> Tensor:
    """Predicted boxes of each object's image: (L, B, Q, 4) -> (L, T, Q, 4).

    Each coordinate is contiguous in memory, which makes arithmetic on it three times as fast.
    """
    return boxes.movedim(-1, 0).contiguous().index_select(2, image).movedim(0, -1)


def as_layers(logits: Tensor, boxes: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Predictions of one layer, (B, Q, K) and (B, Q, 4), get its dimension; those of L layers are unchanged.

    Raises DensevitError for other shapes, or if B is not the number of images.
    """
    axes = "targets Q" if logits.ndim == 3 else "L targets Q"
    check_shapes(
        {"targets": images, "coordinates": 4}, logits=(logits, f"{axes} K"), boxes=(boxes, f"{axes} coordinates")
    )
    return (logits[None], boxes[None]) if logits.ndim == 3 else (logits, boxes)


@torch.no_grad()
def hungarian(
    logits: Tensor,
    boxes: Tensor,
    targets: Objects | Sequence[Mapping[str, Any]],
    weights: MatchingCosts = MatchingCosts(),
    softmax: bool = True,
    strict: bool = True,
) -> MatchedPairs:
    """Assigns each object to one query with minimum total cost, per image and layer: `assign` of `matching_costs`.

    logits: (B, Q, K), or (L, B, Q, K) of L layers; with softmax the last class is "no object". boxes: (B, Q, 4) or
    (L, B, Q, 4), cxcywh in 0 ... 1. targets: a dict for each image as in `Objects.of`, or their objects. strict: the
    argument of `assign`.
    """
    objects = Objects.of(targets, logits.device)
    logits, boxes = as_layers(logits, boxes, len(objects.counts))
    cost = matching_costs(logits, boxes, objects, weights, softmax)
    return assign(cost, objects.counts, objects.names, strict).to(logits.device)


def assign(cost: Tensor, counts: Sequence[int], names: Sequence[int | str], strict: bool = True) -> MatchedPairs:
    """The assignment of objects to queries with minimum total cost, per image and layer (Hungarian algorithm).

    cost: (L, T, Q), copied to the CPU once; the returned pairs stay on the CPU. counts, names: the number of objects
    and the id of each image. Objects in excess of the queries of an image stay unmatched. Raises DensevitError, which
    names the image, if a cost is not finite and `strict`; otherwise such a cost is large: see
    `LossContext.raise_on_non_finite`.
    """
    if not any(counts):  # without waiting for a GPU
        none = torch.zeros(len(cost), 0, dtype=torch.long)
        return MatchedPairs(none.new_zeros(0), none, none)
    from scipy.optimize import linear_sum_assignment  # half a second

    matrix = cost.cpu().numpy()
    if not np.isfinite(matrix).all():
        if strict:
            raise DensevitError(_not_finite(matrix, counts, names))
        matrix = np.nan_to_num(matrix, nan=_LARGEST_COST, posinf=_LARGEST_COST, neginf=_LARGEST_COST)
    L, _, Q = matrix.shape
    queries, targets = ([[np.zeros(0, dtype=np.int64)] for _ in range(L)] for _ in range(2))
    ends = np.cumsum(counts)
    for start, end in zip(ends - counts, ends, strict=True):
        for layer in range(L):
            rows, columns = linear_sum_assignment(matrix[layer, start:end])
            targets[layer].append(rows + start)
            queries[layer].append(columns)
    image = torch.repeat_interleave(torch.tensor([min(count, Q) for count in counts], dtype=torch.long))
    query, target = (torch.from_numpy(np.stack([np.concatenate(x) for x in side])) for side in (queries, targets))
    return MatchedPairs(image, query, target)


def _not_finite(matrix: np.ndarray, counts: Sequence[int], names: Sequence[int | str]) -> str:
    """Error message for the first cost in (L, T, Q) that is not finite."""
    layer, target, query = (int(index[0]) for index in np.nonzero(~np.isfinite(matrix)))
    image = int(np.searchsorted(np.cumsum(counts), target, side="right"))
    return (
        f"Image {names[image]!r}: the matching cost of object {target - sum(counts[:image])} with query {query} of "
        f"decoder layer {layer} is {matrix[layer, target, query]}. Predictions have diverged, or the annotation is not "
        "finite. Fix: lower the learning rate, clip gradients (trainer.clip_grad_norm), or check the annotation."
    )
