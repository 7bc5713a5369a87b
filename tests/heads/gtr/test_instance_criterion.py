"""GTR's criterion with masks beside the authors' arithmetic, mask by mask (Intellindust-AI-Lab/GTR, `engine/gtr/det`).

Points near the border are sampled with zeros as padding, as their `point_sample` leaves `padding_mode` at its default.
"""

from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from densevit.losses.context import LossContext
from densevit.losses.matching import MatchedPairs, MatchingCosts, Objects, matching_costs
from densevit.set_prediction.denoising import ContrastiveDenoising
from densevit.set_prediction.mask_matching import MaskWeights
from densevit.targets import RunLengthMasks
from densevit_heads.gtr.criterion import GroupedDfineCriterion
from densevit_heads.gtr.instance_criterion import GroupedInstanceCriterion
from densevit_heads.parts.distributions.criterion import DfineLossWeights
from tests.heads.dfine.test_criterion import K, L, make_outputs
from tests.heads.transformers_pairs import scene

B, G, Q, C = 3, 2, 7, 6
SIZE, STRIDE, COUNTS = (64, 96), 4, [2, 0, 3]
H, W = SIZE[0] // STRIDE, SIZE[1] // STRIDE
POINTS = H * W // 16  # of the matching; of the losses, as it is larger than H
COSTS, WEIGHTS = MatchingCosts(label=2.0, l1=1.0, giou=1.0), DfineLossWeights(label=2.0, l1=1.0, giou=1.0)


def at(maps: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Maps (N, H, W) at points (N, P, 2), xy in 0 ... 1: (N, P)."""
    return F.grid_sample(maps[:, None], 2 * points[:, :, None] - 1, mode=mode, align_corners=False)[:, 0, :, 0]


def mask_and_dice(logits: Tensor, masks: Tensor, table: Tensor) -> Tensor:
    """The binary cross-entropy and dice of pairs at points, summed over them: (2,)."""
    candidates = table[: 3 * POINTS].expand(len(logits), -1, -1)
    nearest = at(logits.detach(), candidates).abs().argsort(1)[:, : int(0.75 * POINTS)]
    chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    points = torch.cat([chosen, table[: POINTS - chosen.shape[1]].expand(len(logits), -1, -1)], dim=1)
    x, truth = at(logits, points), at(masks, points, "nearest")
    cross_entropy = F.binary_cross_entropy_with_logits(x, truth, reduction="none").mean(1)
    p = x.sigmoid()
    dice = 1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1)
    return torch.stack([cross_entropy.sum(), dice.sum()])


def mask_costs(logits: Tensor, masks: Tensor, table: Tensor) -> Tensor:
    """5 times both terms of each mask and query, (T, Q). logits: (Q, H, W). masks: (T, h, w)."""
    x = at(logits, table[:POINTS].expand(len(logits), -1, -1))
    truth = at(masks, table[:POINTS].expand(len(masks), -1, -1), "nearest")
    p, zeros = x.sigmoid(), torch.zeros_like(x)
    positive = F.binary_cross_entropy_with_logits(x, zeros + 1, reduction="none")
    negative = F.binary_cross_entropy_with_logits(x, zeros, reduction="none")
    cross_entropy = (truth @ positive.T + (1 - truth) @ negative.T) / POINTS
    return 5 * cross_entropy + 5 * (1 - (2 * truth @ p.T + 1) / (truth.sum(1)[:, None] + p.sum(1) + 1))


def matched(costs: Tensor) -> MatchedPairs:
    """The pairs of each output, from costs (M, G * T, Q) of the objects of G * B images, group by group."""
    T, rows = sum(COUNTS), []
    for output in costs:
        pairs = []
        for group in range(G):
            for image, count in enumerate(COUNTS):
                first = group * T + sum(COUNTS[:image])
                objects, queries = linear_sum_assignment(output[first : first + count].numpy())
                pairs += [(group * B + image, query, first + x) for x, query in zip(objects, queries, strict=True)]
        rows.append(torch.tensor(pairs).T)
    image, query, target = torch.stack(rows, dim=1)
    return MatchedPairs(image[0], query, target)


def test_matching_losses_and_gradients_are_the_authors(monkeypatch: pytest.MonkeyPatch):
    """A layer's masks learn from its own matching, by classes, boxes and masks; those of the boxes before refinement
    are the first layer's; denoising queries have masks too; sums are divided as those of classes."""
    _, _, targets = scene([SIZE] * B, COUNTS, K)
    coarse = torch.randn(sum(COUNTS), 8, 12) > 0
    masks = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2).float()  # (T, h, w)
    for target, own in zip(targets, masks.split(COUNTS), strict=True):
        target["masks"] = RunLengthMasks.from_dense(own.bool().numpy(), SIZE)
    denoising = ContrastiveDenoising(4, K, 4)
    objects, T = Objects.of(targets * G, torch.device("cpu")), len(masks)
    noised = denoising(objects, Q)
    D, P = noised.contents.shape[1], len(noised.target)
    layers = make_outputs(G * B, D + Q, L + 2, seed=4)
    embeddings = torch.randn(L, G * B, D + Q, C, requires_grad=True)
    pixels = torch.randn(L, B, C, H, W, requires_grad=True)
    table = torch.rand(1000, 2)
    monkeypatch.setattr(torch, "rand", lambda rows, count, *_, **__: table[:count].expand(rows, -1, -1))

    logits = torch.einsum("lgbnc,lbchw->lgbnhw", embeddings.unflatten(1, (G, B)), pixels).flatten(1, 2)
    of_outputs = torch.cat([logits, logits[:1]])  # (L + 1, G * B, D + Q, H, W)
    costs = matching_costs(layers.logits[:, :, D:], layers.boxes[:, :, D:], objects, COSTS, softmax=False)
    for output, maps in enumerate(of_outputs.detach()):
        for row in range(G * T):
            image = int(objects.image[row])
            costs[output, row] += mask_costs(maps[image, D:], masks[row % T][None], table)[0]
    pairs = matched(costs)
    terms = []
    for output, maps in enumerate(of_outputs):
        own = maps[pairs.image, pairs.query[output] + D]
        terms.append(mask_and_dice(own, masks[pairs.target[output] % T], table) * 5 / (G * T))
    positive = noised.image[:P], noised.query[:P]
    noised_terms = [mask_and_dice(maps[positive], masks[noised.target % T], table) * 5 / P for maps in of_outputs]

    options: Any = {"denoising": denoising}
    outputs = {"layers": layers, "objects": objects, "denoising": noised}
    expected = GroupedDfineCriterion(COSTS, WEIGHTS, "mal", **options).losses(
        {**outputs, "pairs": pairs}, targets, LossContext()
    )
    expected["mask"], expected["dice"] = terms[L - 1]
    expected["auxiliary"] = expected["auxiliary"] + torch.stack([*terms[: L - 1], terms[L]]).sum()
    expected["denoising"] = expected["denoising"] + torch.stack(noised_terms).sum()

    criterion = GroupedInstanceCriterion(
        COSTS, WEIGHTS, "mal", **options, mask_stride=STRIDE, mask_weights=MaskWeights(1.0, 5.0, 5.0)
    )
    given = {**outputs, "mask_layers": (embeddings, [*pixels]), "generator": None}
    losses = criterion.losses(given, targets, LossContext())
    assert losses.keys() == expected.keys()
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-5)
    leaves = [embeddings, pixels, layers.logits, layers.boxes]
    found, wanted = (torch.autograd.grad(torch.stack([*x.values()]).sum(), leaves) for x in (losses, expected))
    for x, y in zip(found, wanted, strict=True):
        assert y.abs().max() > 1e-4
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
