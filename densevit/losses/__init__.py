"""The losses of training for a loop of your own, of one process or of several.

Each has shapes and units in its docstring, is computed in fp32, also under autocast, and does not wait for the GPU; the
matching waits for its costs. Label maps have 255 = ignored, depth in metres has 0 = unknown.

Example:
    >>> logits, boxes = torch.zeros(6, 1, 100, 92), torch.rand(6, 1, 100, 4)  # of 6 layers
    >>> target = {"boxes": torch.tensor([[9.0, 9.0, 50.0, 60.0]]), "labels": torch.tensor([3]), "size": (480, 640)}
    >>> losses = densevit.losses.HungarianLoss()(logits, boxes, [target])
    >>> list(losses), losses["label"]  # weighted; their sum is minimised
    (['label', 'l1', 'giou', 'auxiliary'], tensor(4.5218))
    >>> densevit.losses.hungarian(logits, boxes, [target]).query.shape  # of each layer and object
    torch.Size([6, 1])
    >>> densevit.losses.focal(torch.zeros(2), torch.tensor([0, 1]))  # without reduction
    tensor([0.1300, 0.0433])
    >>> labels = torch.tensor([[[0, 1, 255, 255]]], dtype=torch.uint8)
    >>> densevit.losses.cross_entropy(torch.zeros(1, 2, 1, 4), labels)
    tensor(0.6931)
    >>> densevit.losses.dice(torch.zeros(1, 2, 1, 4), labels)
    tensor(0.3333)
    >>> depth = torch.tensor([[[1.0, 2.0, 0.0]]])
    >>> densevit.losses.silog(2 * depth, depth)
    tensor(2.6845)
    >>> densevit.losses.scale_and_shift_invariant(3 * depth + 1, depth)
    tensor(0.)

In several processes, all of which call the same losses, normalisers are means over the processes, so that the averaged
gradients of DDP are those of one large batch.

    >>> context = densevit.LossContext.across_processes()
    >>> densevit.losses.cross_entropy(torch.zeros(1, 2, 1, 4), labels, context)
    tensor(0.6931)
"""

from densevit.losses.classification import focal
from densevit.losses.depth import depth_maps, silog
from densevit.losses.hungarian_loss import HungarianLoss
from densevit.losses.matching import MatchedPairs, MatchingCosts, Objects, assign, hungarian, matching_costs
from densevit.losses.relative_depth import gradient_matching, robust_error, scale_and_shift_invariant
from densevit.losses.segmentation import cross_entropy, dice, label_counts, label_maps
from densevit.losses.set_losses import LossWeights

__all__ = [
    "HungarianLoss",
    "LossWeights",
    "MatchedPairs",
    "MatchingCosts",
    "Objects",
    "assign",
    "cross_entropy",
    "depth_maps",
    "dice",
    "focal",
    "gradient_matching",
    "hungarian",
    "label_counts",
    "label_maps",
    "matching_costs",
    "robust_error",
    "scale_and_shift_invariant",
    "silog",
]
