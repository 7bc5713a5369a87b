"""The max_deeplab head: matching and losses written out, layers as equations, panoptic maps."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from densevit.interfaces import Class
from densevit_papers.max_deeplab import DualPathLayer
from densevit_papers.max_deeplab_criterion import MaskLossWeights, PQCriterion
from densevit_papers.max_deeplab_masks import GridTruth, MaskOutputs
from densevit_papers.max_deeplab_pq_loss import dice, match
from densevit_papers.max_deeplab_predictions import SoftmaxMasks, pixelwise_panoptic
from tests.papers.small_models import attended, conv_norm, randomised

CLASSES = [Class(name, i, (i, i, i), thing=name.islower()) for i, name in enumerate(["cat", "dog", "SKY", "SEA"])]


def map_of(size=(24, 20)):
    """A panoptic map with two cats, sky, a crowd of dogs (1002), void at the right."""
    ids = torch.full(size, 2000, dtype=torch.int32)
    ids[:9, :9], ids[9:, :7], ids[14:, 10:15], ids[:, 17:] = 0, 1, 1002, -1
    return {"panoptic": ids, "panoptic_crowds": [1002], "size": size, "original_size": size, "image_id": "a"}


def outputs_of(cells, K=4, Q=5, C=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits, masks, features = (
        2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((Q, K + 1), (Q, cells), (C, cells))
    )
    return MaskOutputs(logits, masks, F.normalize(features, dim=0))


def criterion_of(**options):
    return PQCriterion(CLASSES, 5, 4, MaskLossWeights(), **options)


# ---- targets, matching and losses ----


def test_segments_are_read_at_the_centres_of_cells_without_void_and_crowds():
    target = map_of()
    [truth] = GridTruth.of([target], 4, 4, torch.device("cpu"))
    expected = target["panoptic"][2::4, 2::4]
    assert truth.size == (6, 5) == tuple(expected.shape)
    assert truth.labels.tolist() == [0, 0, 2]
    for mask, segment in zip(truth.masks, [0, 1, 2000], strict=True):
        assert torch.equal(mask.view(6, 5), expected == segment)
    assert torch.equal(~truth.labelled.view(6, 5), (expected == -1) | (expected == 1002))
    ids = torch.zeros(5, 5, dtype=torch.int32)
    ids[4, 4] = 3000  # of cells whose centre is outside of the image, the last pixel counts
    [truth] = GridTruth.of([{"panoptic": ids, "size": (5, 5)}], 4, 4, ids.device)
    assert truth.masks.view(2, 2, 2).tolist() == [[[True, True], [True, False]], [[False, False], [False, True]]]


def similarity(x, truth):
    """Class probability and dice of each segment and query (section 3.2)."""
    classes, labelled = x.logits.softmax(-1), truth.masks.any(0)
    p, masks = x.masks.softmax(0)[:, labelled], truth.masks[:, labelled].double()
    overlap = 2 * masks @ p.T / (masks.sum(1)[:, None] + p.sum(1) + 2e-5)
    return torch.stack([classes[:, truth.labels].T, overlap], dim=2)


def test_matching_has_the_largest_total_similarity_of_all_assignments():
    [truth] = GridTruth.of([map_of()], 4, 4, torch.device("cpu"))
    for seed in range(3):
        x = outputs_of(truth.masks.shape[1], seed=seed)
        expected = similarity(x, truth)
        torch.testing.assert_close(dice(x.masks, truth), expected[..., 1])
        product = expected.prod(-1)
        best = max(itertools.permutations(range(5), 3), key=lambda queries: sum(product[range(3), list(queries)]))
        [found] = match([x], [truth])
        assert found.query.tolist() == list(best)
        torch.testing.assert_close(found.class_probability, expected[range(3), list(best), 0])
        torch.testing.assert_close(found.dice, expected[range(3), list(best), 1])


@pytest.mark.parametrize("void_weighting", [False, True])
def test_losses_are_the_papers(void_weighting):
    """Sections 3.2 and 3.4, written out; the semantic loss is torch's cross-entropy."""
    [truth] = GridTruth.of([map_of()], 4, 4, torch.device("cpu"))
    x = outputs_of(truth.masks.shape[1])
    criterion = criterion_of(void_weighting=void_weighting)
    [matched] = match([x], [truth])
    found = criterion.terms(x, matched)

    log_p, masks = x.logits.log_softmax(-1), x.masks.softmax(0)
    cells = [cell for cell in range(masks.shape[1]) if truth.labelled[cell]]
    void = [cell for cell in range(masks.shape[1]) if not truth.labelled[cell]]
    label = overlap = 0.0
    segment_of = dict(zip(matched.query.tolist(), range(3), strict=True))
    for q in range(5):
        if q in segment_of:
            n = segment_of[q]
            t = truth.masks[n, cells].double()
            both, total = (masks[q, cells] * t).sum(), masks[q, cells].sum() + t.sum()
            label -= 0.75 * matched.dice[n] * log_p[q, truth.labels[n]]
            overlap += 0.75 * matched.class_probability[n] * (1 - (2 * both + 1) / (total + 1))
        else:
            weight = masks[q, void].sum() / (masks[q].sum() + 1e-5) if void_weighting else 1.0
            label -= 0.25 * weight * log_p[q, 4]
    torch.testing.assert_close(found["label"], label / 5)
    torch.testing.assert_close(found["dice"], overlap / 5)

    queries = {cell: matched.query[int(truth.masks[:, cell].nonzero())] for cell in cells}
    log_masks = x.masks.log_softmax(0)
    mask = -sum(log_masks[query, cell] for cell, query in queries.items()) / len(cells)
    torch.testing.assert_close(found["mask"], mask)

    means = torch.stack([F.normalize(x.features[:, m].mean(1), dim=0) for m in truth.masks])
    things = [cell for cell in cells if bool(truth.masks[:2, cell].any())]
    each = []
    for cell in things:
        scores = torch.stack([(mean @ x.features[:, cell] / 0.3).exp() for mean in means])
        each.append(-(scores[truth.masks[:, cell]] / scores.sum()).log())
    torch.testing.assert_close(found["instance"], torch.cat(each).mean())

    semantic = torch.randn(4, masks.shape[1], dtype=torch.float64)
    classes = torch.tensor([int(truth.labels[truth.masks[:, cell]]) for cell in cells])
    expected = F.cross_entropy(semantic[:, cells].T, classes)
    torch.testing.assert_close(criterion.semantic_term(semantic, truth), expected)


# ---- layers ----


def test_a_dual_path_layer_is_its_equation():
    """M2P and M2M in one softmax over pixels and memory, P2M with the memory before the layer, as in the code."""
    layer = randomised(DualPathLayer(12, 8, 2, 16))
    pixels, memory = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 12, 3, 4), (2, 8, 5)))
    padding = torch.zeros(2, 3, 4, dtype=torch.bool)
    padding[1, :, 3] = True
    q, k, v = conv_norm(layer.memory_qkv, conv_norm(layer.reduce_memory, memory).relu()).split((4, 4, 8), dim=1)
    flat = pixels.flatten(2)
    of_pixels = conv_norm(layer.pixel_qkv, conv_norm(layer.reduce_pixels, flat.relu()).relu()).split((4, 4, 8), dim=1)
    keys, values = torch.cat([of_pixels[1], k], dim=2), torch.cat([of_pixels[2], v], dim=2)
    masked = torch.cat([padding.flatten(1), torch.zeros(2, 5, dtype=torch.bool)], dim=1)
    new = memory + conv_norm(layer.expand_memory, attended(layer.memory_attention, q, keys, values, masked).relu())
    new = new.relu()
    new = (new + conv_norm(layer.ffn[1], conv_norm(layer.ffn[0], new).relu())).relu()
    back = attended(layer.pixel_attention, of_pixels[0], k, v).relu()
    found = layer(pixels, memory, padding)
    torch.testing.assert_close(found[0], pixels + conv_norm(layer.expand_pixels, back).view_as(pixels))
    torch.testing.assert_close(found[1], new)


# ---- predictions ----


def test_a_pixel_is_void_below_either_threshold():
    logits = torch.full((5, 5), -20.0)
    for query, label in enumerate([0, 0, 2, 2, 4]):  # two cats, sky twice, no object
        logits[query, label] = 0.0
    logits[1, 4] = 1.0  # the second cat has a class probability of 0.27
    p = torch.tensor([
        [0.9, 0.1, 0.1, 0.0, 0.3, 0.0],
        [0.1, 0.8, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.9, 0.1, 0.35, 0.0],
        [0.0, 0.0, 0.0, 0.9, 0.34, 0.1],
        [0.0, 0.1, 0.0, 0.0, 0.01, 0.9],
    ])  # fmt: skip
    masks = SoftmaxMasks((p + 1e-9).log()[:, None], 1, (1, 6), (1, 6))
    # Void: the second cat's pixel, a pixel of at most 0.4, and one of no object. The segments of sky are one.
    assert pixelwise_panoptic(logits, masks, CLASSES, 0.7).tolist() == [[0, -1, 2000, 2000, -1, -1]]
    assert pixelwise_panoptic(logits, masks, CLASSES, 0.2).tolist() == [[0, 1, 2000, 2000, -1, -1]]
