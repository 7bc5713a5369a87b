"""How fast Hungarian matching is beside the usual ways, in one run: `python tools/benchmarks/matching.py`.

The usual way is DETR's own: for each decoder layer one cost matrix of all queries of the batch with all objects of the
batch, of which only the blocks of one image are assigned. The other is a small cost matrix for each image and each
layer. All take the same predictions and targets and find the same assignment; rounds are interleaved, so that what else
the machine does slows all alike.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from densevit.interfaces import Targets
from densevit.losses.matching import Objects, hungarian

Assignment = list[tuple[int, int, int, int]]  # layer, image, query, object of the image


def predictions(
    layers: int, queries: int, classes: int, targets: list[Targets], trained: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Logits (L, B, Q, K+1) and boxes (L, B, Q, 4); of a trained model, two queries in three are near an object."""
    shape = (layers, len(targets), queries)
    logits = torch.randn(*shape, classes + 1, generator=generator)
    boxes = torch.rand(*shape, 4, generator=generator)
    for image, target in enumerate(targets):
        if trained and len(target["boxes"]):
            near = torch.arange(2 * queries // 3) % len(target["boxes"])
            truth = box_convert(target["boxes"], "xyxy", "cxcywh") / 640
            noise = 0.05 * torch.randn(layers, len(near), 4, generator=generator)
            boxes[:, image, : len(near)] = (truth[near] + noise).clamp(0.001, 1)
            logits[:, image, torch.arange(len(near)), target["labels"][near]] += 4
    return logits, boxes


def coco_like(batch: int, classes: int, generator: np.random.Generator) -> list[Targets]:
    """Targets with COCO's mean of about seven objects a picture, from none to more than thirty."""
    targets = []
    for count in np.minimum(generator.geometric(1 / 8.3, batch) - 1, 60):
        low, size = generator.uniform(0, 400, (count, 2)), generator.exponential(80, (count, 2)) + 4
        boxes = torch.from_numpy(np.concatenate([low, np.minimum(low + size, 640)], axis=1)).float()
        labels = torch.from_numpy(generator.integers(0, classes, count))
        targets.append({"boxes": boxes, "labels": labels, "size": (640, 640)})
    return targets


def ours(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Assignment:
    objects = Objects.of(targets, logits.device)
    layer, image, query, target = hungarian(logits, boxes, objects)
    first = torch.tensor(objects.counts).cumsum(0) - torch.tensor(objects.counts)
    own = target.cpu() - first[image.cpu()]
    return list(zip(layer.tolist(), image.tolist(), query.tolist(), own.tolist(), strict=True))


def cost_matrix(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Tensor:
    """(Q, N) of the paper's costs, with the parts that DETR's matcher uses."""
    labels = torch.cat([target["labels"] for target in targets])
    truth = torch.cat([target["relative"] for target in targets])
    probability = logits.softmax(-1)
    l1 = torch.cdist(boxes, truth, p=1)
    giou = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(truth, "cxcywh", "xyxy"))
    return 5 * l1 - probability[:, labels] - 2 * giou


def the_usual_way(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Assignment:
    found: Assignment = []
    counts = [len(target["labels"]) for target in targets]
    for layer in range(len(logits)):
        matrix = cost_matrix(logits[layer].flatten(0, 1), boxes[layer].flatten(0, 1), targets)
        blocks = matrix.view(*logits.shape[1:3], -1).cpu().split(counts, -1)
        for image, block in enumerate(blocks):
            rows, columns = linear_sum_assignment(block[image])
            found += [(layer, image, int(q), int(n)) for q, n in zip(rows, columns, strict=True)]
    return found


def image_by_image(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Assignment:
    found: Assignment = []
    for layer in range(len(logits)):
        for image, target in enumerate(targets):
            matrix = cost_matrix(logits[layer, image], boxes[layer, image], [target])
            rows, columns = linear_sum_assignment(matrix.cpu())
            found += [(layer, image, int(q), int(n)) for q, n in zip(rows, columns, strict=True)]
    return found


def transformers_matcher(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> Assignment:
    from transformers.loss.loss_for_object_detection import HungarianMatcher

    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    theirs = [{"class_labels": target["labels"], "boxes": target["relative"]} for target in targets]
    found: Assignment = []
    for layer in range(len(logits)):
        pairs = matcher({"logits": logits[layer], "pred_boxes": boxes[layer]}, theirs)
        found += [(layer, i, q, n) for i, (rows, columns) in enumerate(pairs) for q, n in zip(rows.tolist(), columns.tolist())]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--classes", type=int, default=91)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print("todo")


if __name__ == "__main__":
    main()
