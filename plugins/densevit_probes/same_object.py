"""Do features tell objects apart: whether two patches belong to the same object, by the affinity of their features.

DeAP (Lüddecke and Ecker 2025) asks this of a trained attention over frozen features. Here nothing is trained: the
attention of a patch to the others is the cosine similarity of their features, whose order a softmax keeps.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import Batch, Evaluator, Predictions, Targets
from densevit_probes.probe import Encode, Probe

_CHUNK = 1 << 22  # similarities computed at once


class SameObjectAuc(Evaluator):
    """The metrics `auc`, and `auc_in_class` among objects of equal class: means over images of `same_object_auc`."""

    reads = ("same_object",)
    main = "auc"

    def record(self, prediction: Predictions, truth: Targets) -> list[float]:
        """prediction: under `same_object` the two areas, nan where an image has none."""
        areas: list[float] = prediction["same_object"]
        return areas

    def compute(self, records: Sequence[list[float]]) -> dict[str, float]:
        """The metrics, see the class; nan without images."""
        columns = np.array(records, float).reshape(-1, 2).T
        means = (column[~np.isnan(column)] for column in columns)
        return {
            name: float(x.mean()) if x.size else np.nan for name, x in zip(("auc", "auc_in_class"), means, strict=True)
        }


class SameObject(Probe):
    """Whether the last map tells objects apart, without a fit; metrics as in `SameObjectAuc`."""

    required_targets = ("masks", "labels")
    evaluator = SameObjectAuc

    def __init__(self, classes: Sequence[Any] = ()) -> None:
        super().__init__(())

    def features(self, encode: Encode, batch: Batch, stride: int) -> list[list[float]]:
        """The two areas of each image; [] without objects."""
        images = []
        for map_, target in zip(encode(batch)[-1], batch["targets"], strict=True):
            size, truth = (int(target["size"][0]), int(target["size"][1])), target["truth"]
            images.append(list[float]())
            if all(key in truth for key in self.required_targets):
                crowds = truth.get("iscrowd", torch.zeros(len(truth["masks"]))).tolist()
                masks = truth["masks"].resize(size)
                objects = patch_objects(masks, crowds, (map_.shape[1], map_.shape[2]), stride, size).to(map_.device)
                classes = (None, truth["labels"].tolist())
                images[-1] = [same_object_auc(map_.flatten(1).T, objects, x) for x in classes]
        return images

    def predict(self, image: list[float], size: tuple[int, int]) -> Predictions:
        return {"same_object": image}


def same_object_auc(features: Tensor, objects: Tensor, object_classes: Sequence[int] | None = None) -> float:
    """The area under the ROC curve of "same object" by cosine similarity, a mean over the patches of objects.

    The curve of a patch ranks the other patches of the image: those of its object should come before all others, or,
    with object_classes, before those of other objects of its class. Ties count half; 0.5 is chance. nan if no patch has
    both. Memory is bounded, whatever the number of patches.

    features: (N, C). objects: (N,) from `patch_objects`. object_classes: the class of each object.
    """
    features, objects = F.normalize(features[objects >= 0].float(), dim=1), objects[objects >= 0]
    classes = None if object_classes is None else torch.tensor([-1, *object_classes], device=objects.device)[objects]
    scores = []
    for rows in objects.nonzero()[:, 0].split(max(1, _CHUNK // max(1, len(objects)))):
        same = objects[rows, None] == objects
        other = ~same if classes is None else ~same & (classes[rows, None] == classes)
        same.scatter_(1, rows[:, None], False)  # not the patch itself
        similarity = (features[rows] @ features.T).masked_fill(~(same | other), torch.inf)
        ordered = similarity.sort(dim=1).values
        below, not_above = (torch.searchsorted(ordered, similarity, right=right) for right in (False, True))
        positives, negatives = same.sum(1), other.sum(1)
        wins = ((below + not_above) * same).sum(1) / 2 - positives.square() / 2  # Mann-Whitney's U
        scores.append((wins / (positives * negatives))[(positives > 0) & (negatives > 0)])
    return float(torch.cat(scores).mean()) if scores else float("nan")


def patch_objects(
    masks: Iterable[np.ndarray], iscrowd: Sequence[bool], grid: tuple[int, int], stride: int, size: tuple[int, int]
) -> Tensor:
    """The object of each patch, (h * w,) int64: 1 ... M in the order of masks; 0: none; -1: ignored.

    An object has the patches of which it covers more than half, and more than other objects; pixels outside the image
    do not count. Patches outside the image and those of crowds are ignored.

    masks: M masks (H, W) bool on the network's input, such as `RunLengthMasks`, read one by one. iscrowd: M values.
    grid: (h, w) of the map. size: the image's (H, W), without padding.
    """

    def shares(mask: Tensor) -> Tensor:
        canvas = torch.zeros(1, grid[0] * stride, grid[1] * stride)
        canvas[0, : size[0], : size[1]] = mask
        return F.avg_pool2d(canvas, stride).flatten()

    inside = shares(torch.ones(size))
    objects, covered = torch.where(inside > 0, 0, -1), inside / 2
    for i, (mask, crowd) in enumerate(zip(masks, iscrowd, strict=True), start=1):
        share = shares(torch.from_numpy(mask))
        objects[share > covered] = -1 if crowd else i
        covered = torch.maximum(covered, share)
    return objects
