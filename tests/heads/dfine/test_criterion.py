"""D-FINE's criterion, in the authors' arrangement of the losses that transformers has by term; its bins and layers.

Its outputs are compared with transformers' and the authors' in tests/checkpoints/layouts.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from densevit.losses.boxes import to_corners
from densevit.losses.context import LossContext
from densevit.losses.matching import MatchingCosts
from densevit_heads.parts.distributions.criterion import DfineCriterion, DfineLossWeights, LayerOutputs
from densevit_heads.parts.distributions.distribution import distances_of_boxes, soft_bins, weighting_function
from tests.heads.transformers_pairs import scene

L, Q, K, N = 4, 14, 5, 32
COUNTS = [3, 0, 6, 1]
Indices = list[tuple[Tensor, Tensor]]


def make_outputs(images: int, queries: int, outputs: int, seed: int) -> LayerOutputs:
    """Of L layers and further outputs, with gradients; boxes are close enough to overlap."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(outputs, images, queries, K, generator=generator)
    boxes = torch.rand(outputs, images, queries, 4, generator=generator) * 0.4 + 0.3
    boxes[:, :, 0] = torch.tensor([0.05, 0.05, 0.02, 0.02])  # overlaps no object
    corners = torch.randn(L, images, queries, 4 * (N + 1), generator=generator)
    initial = torch.rand(images, queries, 4, generator=generator) * 0.4 + 0.3
    return LayerOutputs(*(x.requires_grad_() for x in (logits, boxes, corners)), initial)


def outputs_of(found: LayerOutputs, layer: int) -> dict[str, Tensor]:
    """One output with transformers' names; with distributions if it is one of the L layers."""
    output = {"logits": found.logits[layer], "pred_boxes": found.boxes[layer]}
    if layer < L:
        output |= {"pred_corners": found.corners[layer], "ref_points": found.initial}
        output |= {"teacher_corners": found.corners[-1], "teacher_logits": found.logits[L - 1]}
    return output


def brute_force_union(matchings: list[Indices]) -> Indices:
    """Each query takes the object of most votes; the first one if there are several."""
    result = []
    for image in range(len(matchings[0])):
        votes = Counter(pair for m in matchings for pair in zip(*(x.tolist() for x in m[image]), strict=True))
        pairs = {}
        for query in sorted({query for query, _ in votes}):
            objects = [(-count, target) for (other, target), count in votes.items() if other == query]
            pairs[query] = min(objects)[1]
        result.append((torch.tensor([*pairs]).long(), torch.tensor([*pairs.values()]).long()))
    return result


def matchability_aware(output: dict[str, Tensor], labels: list[dict], matching: Indices, objects: int) -> Tensor:
    """DEIM's loss (equation 4, gamma 1.5), prediction by prediction."""
    loss = torch.zeros(())
    for image, (label, (queries, targets)) in enumerate(zip(labels, matching, strict=True)):
        pairs = dict(zip(queries.tolist(), targets.tolist(), strict=True))
        for query, logits in enumerate(output["logits"][image]):
            for k, p in enumerate(logits.sigmoid()):
                if query in pairs and k == label["class_labels"][pairs[query]]:
                    box, truth = (
                        to_corners(x)[None] for x in (output["pred_boxes"][image, query], label["boxes"][pairs[query]])
                    )
                    q = box_iou(box, truth)[0, 0].detach() ** 1.5
                    loss = loss - q * p.log() - (1 - q) * (1 - p).log()
                else:
                    loss = loss - p.detach() ** 1.5 * (1 - p).log()
    return loss / objects


def expected_losses(
    found: LayerOutputs, labels: list[dict], classification: str = "varifocal_matched"
) -> tuple[dict[str, Tensor], tuple[float, float]]:
    """Also the weights of matched and of other queries in the distillation."""
    from transformers import DFineConfig
    from transformers.loss.loss_d_fine import DFineLoss

    theirs, weights = DFineLoss(DFineConfig(num_labels=K, max_num_bins=N)), DfineLossWeights()
    outputs = [outputs_of(found, i) for i in range(L + 2)]
    matchings = [theirs.matcher(output, labels) for output in outputs]
    merged = brute_force_union(matchings)
    objects = sum(len(label["boxes"]) for label in labels)
    pairs = max(1, sum(len(query) for query, _ in merged))
    terms: list[dict[str, Tensor]] = []
    for output, matching in zip(outputs, matchings, strict=True):
        term = theirs.loss_labels_vfl(output, labels, matching, objects)
        if classification == "mal":
            term["loss_vfl"] = matchability_aware(output, labels, matching, objects)
        term |= theirs.loss_boxes(output, labels, merged, pairs)
        if "pred_corners" in output:
            term |= theirs.loss_local(output, labels, merged, pairs)
        terms.append(term)
    of = {"label": "loss_vfl", "l1": "loss_bbox", "giou": "loss_giou", "fgl": "loss_fgl"}
    weighted = [{name: getattr(weights, name) * term[key] for name, key in of.items() if key in term} for term in terms]
    others = [*weighted[: L - 1], weighted[L]]
    return {
        **weighted[L - 1],
        "auxiliary": torch.stack([x for terms in others for x in terms.values()]).sum(),
        "proposals": torch.stack([*weighted[L + 1].values()]).sum(),
        "ddf": weights.ddf * torch.stack([term["loss_ddf"] for term in terms[: L - 1]]).sum(),
    }, (pairs**0.5, (len(labels) * found.initial.shape[1] - pairs) ** 0.5)


@pytest.mark.parametrize(
    ("counts", "seed", "classification"),
    [(COUNTS, 0, "varifocal_matched"), ([0, 0, 7, 0], 1, "varifocal_matched"), (COUNTS, 2, "mal")],
    ids=str,
)
def test_losses_and_gradients_match_the_authors_arrangement_of_transformers_terms(
    counts: list[int], seed: int, classification: Any
):
    found = make_outputs(len(counts), Q, L + 2, seed)
    _, labels, targets = scene([(100, 100)] * len(counts), counts, K, degenerate=True)
    losses = DfineCriterion(MatchingCosts(label=2.0), DfineLossWeights(), classification).losses(
        {"layers": found}, targets, LossContext()
    )
    expected, _ = expected_losses(found, labels, classification)
    assert list(losses) == ["label", "l1", "giou", "fgl", "auxiliary", "proposals", "ddf"]
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-5)
    leaves = found[:3]
    own = torch.autograd.grad(torch.stack([*losses.values()]).sum(), leaves)
    other = torch.autograd.grad(torch.stack([*expected.values()]).sum(), leaves)
    for x, y in zip(own, other, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)
        assert y.abs().max() > 1e-4


CPU, UP = torch.device("cpu"), torch.tensor([0.5])


def test_soft_bins_match_transformers():
    """Also distances outside the bins, on a bin, and those of a reference or a box of no size."""
    from transformers.loss import loss_d_fine

    generator = torch.Generator().manual_seed(1)
    reference = torch.rand(50, 4, generator=generator) * 0.6 + 0.2
    boxes = to_corners(torch.rand(50, 4, generator=generator) * 0.6 + 0.2)
    boxes[0] = to_corners(reference[0])
    reference[1, 2:], boxes[2, 2:] = 0.0, boxes[2, :2]
    index, right, left = loss_d_fine.bbox2distance(reference, boxes, 32, torch.tensor([4.0]), UP)
    bins = soft_bins(distances_of_boxes(reference, boxes, 4.0), weighting_function(32, 4.0, CPU))
    assert torch.equal(bins.left.flatten(), index.long())
    torch.testing.assert_close(bins.right_weight.flatten(), right, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(1 - bins.right_weight.flatten(), left, atol=1e-4, rtol=1e-4)
    assert (right == 1).any() and (left == 1).any()  # of distances outside
