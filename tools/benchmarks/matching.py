"""Compares Hungarian matching with the usual implementations, in one run.

The usual implementation is DETR's: for each decoder layer one cost matrix of all queries of the batch with all objects
of the batch, whose diagonal blocks are assigned. The other one has a small matrix for each image and layer. All use the
same predictions and targets and must find the same assignment.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from interleaved import Run, measure, milliseconds, parsed, parser, ratio, show, table
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from densevit.interfaces import Targets
from densevit.losses.matching import MatchedPairs, Objects, hungarian

SIDE = 640  # of the images, in pixels
Pairs = list[list[tuple[Sequence[int], Sequence[int]]]]  # of each layer and image: queries, and objects of the image
Quadruples = set[tuple[int, int, int, int]]  # layer, image, query, object of the image


def densevit_matching(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> MatchedPairs:
    return hungarian(logits, boxes, Objects.of(targets, logits.device))


def cost_matrix(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
    """The paper's costs of all queries (Q) with all objects (N), (Q, N)."""
    probability = logits.softmax(-1)
    return 5 * torch.cdist(boxes, truth, p=1) - probability[:, labels] - 2 * generalised_iou(boxes, truth)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """(Q, 4) and (N, 4), cxcywh -> (Q, N), as detectors usually compute it."""
    a, b = (torch.cat([x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2], dim=1) for x in (a, b))
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    inner = (torch.min(a[:, None, 2:], b[:, 2:]) - torch.max(a[:, None, :2], b[:, :2])).clamp(min=0)
    outer = torch.max(a[:, None, 2:], b[:, 2:]) - torch.min(a[:, None, :2], b[:, :2])
    intersection, hull = inner.prod(-1), outer.prod(-1)
    union = areas[0][:, None] + areas[1] - intersection
    return intersection / union - (hull - union) / hull


def batch_matrix(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Pairs:
    counts = [len(target["labels"]) for target in targets]
    labels, truth = (torch.cat([target[key] for target in targets]) for key in ("labels", "relative"))
    assignments: Pairs = []
    for layer in range(len(logits)):
        matrix = cost_matrix(logits[layer].flatten(0, 1), boxes[layer].flatten(0, 1), labels, truth)
        blocks = matrix.view(*logits.shape[1:3], -1).cpu().split(counts, -1)
        assignments.append([linear_sum_assignment(block[image]) for image, block in enumerate(blocks)])
    return assignments


def image_by_image(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Pairs:
    return [
        [
            linear_sum_assignment(
                cost_matrix(logits[layer, image], boxes[layer, image], target["labels"], target["relative"]).cpu()
            )
            for image, target in enumerate(targets)
        ]
        for layer in range(len(logits))
    ]


def transformers_matcher(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Pairs:
    from transformers.loss.loss_for_object_detection import HungarianMatcher

    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    class_targets = [{"class_labels": target["labels"], "boxes": target["relative"]} for target in targets]
    return [matcher({"logits": logits[i], "pred_boxes": boxes[i]}, class_targets) for i in range(len(logits))]


def coco_like(batch: int, classes: int, device: str, generator: np.random.Generator) -> list[Targets]:
    """Targets with about as many objects as COCO's images: 7.3 on average, from 0 to more than 30."""
    targets: list[Targets] = []
    for count in np.minimum(generator.geometric(1 / 8.3, batch) - 1, 60):
        low, size = generator.uniform(0, SIDE - 40, (count, 2)), generator.exponential(80, (count, 2)) + 4
        boxes = torch.from_numpy(np.concatenate([low, np.minimum(low + size, SIDE)], axis=1)).float()
        relative = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1) / SIDE
        labels = torch.from_numpy(generator.integers(0, classes, count)).to(device)
        # The others get `relative` precomputed; ours scales `boxes` within the measured time.
        target = {"boxes": boxes.to(device), "relative": relative.to(device), "labels": labels, "size": (SIDE, SIDE)}
        targets.append(target)
    return targets


def predictions(
    layers: int, queries: int, classes: int, targets: list[Targets], trained: bool
) -> tuple[Tensor, Tensor]:
    """Logits (L, B, Q, K+1) and boxes (L, B, Q, 4): of an untrained model, or with most queries near an object."""
    shape = (layers, len(targets), queries)
    logits, boxes = torch.randn(*shape, classes + 1), torch.rand(*shape, 4)
    for image, target in enumerate(targets):
        if trained and len(target["labels"]):
            near = torch.arange(2 * queries // 3) % len(target["labels"])
            around = target["relative"].cpu()[near] + 0.05 * torch.randn(layers, len(near), 4)
            boxes[:, image, : len(near)] = around.clamp(0.001, 1)
            logits[:, image, torch.arange(len(near)), target["labels"].cpu()[near]] += 4
    return logits, boxes


def quadruples(pairs: Pairs) -> Quadruples:
    return {
        (layer, image, int(query), int(target))
        for layer, images in enumerate(pairs)
        for image, (queries, objects) in enumerate(images)
        for query, target in zip(queries, objects, strict=True)
    }


def densevit_quadruples(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Quadruples:
    objects = Objects.of(targets, logits.device)
    first = np.cumsum([0, *objects.counts])
    pairs = densevit_matching(logits, boxes, targets)
    return {
        (layer, int(image), int(query), int(target - first[image]))
        for layer in range(len(logits))
        for image, query, target in zip(pairs.image, pairs.query[layer], pairs.target[layer], strict=True)
    }


WAYS: dict[str, Callable[[Tensor, Tensor, list[Targets]], Pairs]] = {
    "one matrix per batch": batch_matrix,
    "image by image": image_by_image,
}
if importlib.util.find_spec("transformers"):
    WAYS["transformers' HungarianMatcher"] = transformers_matcher


def main() -> None:
    options = parser(__doc__, rounds=30)
    options.add_argument("--batch", type=int, default=16, help="images; %(default)s")
    options.add_argument("--queries", type=int, default=300, help="%(default)s")
    options.add_argument("--classes", type=int, default=91, help="%(default)s")
    options.add_argument("--layers", type=int, default=6, help="decoder layers; %(default)s")
    args = parsed(options)
    targets = coco_like(args.batch, args.classes, args.device, np.random.default_rng(0))
    objects = sum(len(target["labels"]) for target in targets)
    title = f"Matching {args.batch} images, {args.queries} queries, {args.layers} layers, {objects} objects"
    comparison = table(title, args, "way", "predictions", "ms", "times densevit's")
    for trained in (False, True):
        made = predictions(args.layers, args.queries, args.classes, targets, trained)
        logits, boxes = (x.to(args.device) for x in made)
        expected = densevit_quadruples(logits, boxes, targets)
        for name, way in WAYS.items():
            if quadruples(way(logits, boxes, targets)) != expected:
                raise SystemExit(f"{name} finds another assignment.")
        runs: dict[str, Run] = {"densevit": partial(densevit_matching, logits, boxes, targets)}
        times = measure(runs | {name: partial(way, logits, boxes, targets) for name, way in WAYS.items()}, args.rounds)
        for name in times:
            label = "of a trained model" if trained else "at random"
            comparison.add_row(name, label, milliseconds(times, name), ratio(times, name, "densevit"))
    show(comparison)


if __name__ == "__main__":
    main()
