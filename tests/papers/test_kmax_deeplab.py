"""The kmax_deeplab head: the k-means layer as its equation, losses, deep supervision, panoptic maps, cost."""

import torch
from torch.nn import functional as F

from densevit.losses.context import LossContext
from densevit_papers.kmax_deeplab import KMaXDeepLab, KMeansLayer
from densevit_papers.kmax_deeplab_losses import pixel_contrast
from densevit_papers.max_deeplab_masks import GridTruth
from densevit_papers.max_deeplab_pq_loss import match
from densevit_papers.max_deeplab_predictions import SoftmaxMasks, maskwise_panoptic
from densevit_workbench.testing.targets import random_targets
from tests.papers.small_models import attended, conv_norm, normed, randomised
from tests.papers.test_max_deeplab import CLASSES, map_of, outputs_of

SMALL = {
    "num_queries": 6,
    "layers": (1, 1, 1),
    "pixel_layers": (1, 1, 1, 1),
    "width": 16,
    "pixel_width": 4,
    "num_heads": 2,
    "feedforward": 16,
}


# ---- layers ----


def test_a_kmeans_layer_is_its_equation():
    layer = randomised(KMeansLayer(12, 8, 2, 16, 4, torch.nn.GELU))
    pixels, queries = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 12, 3, 4), (2, 8, 5)))
    padding = torch.zeros(2, 3, 4, dtype=torch.bool)
    padding[1, :, 3] = True
    reduced = F.gelu(conv_norm(layer.reduce_pixels, F.gelu(pixels)))
    centres = F.gelu(conv_norm(layer.reduce_queries, queries))
    predicted = layer.predictor(centres, centres, reduced)
    assignment = F.one_hot(predicted[1].flatten(2).argmax(1), 5).double() * ~padding.flatten(1)[..., None]
    update = torch.einsum("bcm,bmq->bcq", conv_norm(layer.pixel_value, reduced).flatten(2), assignment)
    update = conv_norm(layer.expand_update, normed(layer.norm_update, update))
    q, k, v = conv_norm(layer.qkv, centres).split((4, 4, 8), dim=1)
    own = conv_norm(layer.expand_attended, F.gelu(attended(layer.self_attention, q, k, v)))
    expected = F.gelu(queries + update + own)
    expected = F.gelu(expected + conv_norm(layer.ffn[1], F.gelu(conv_norm(layer.ffn[0], expected))))
    found, predictions = layer(pixels, queries, padding)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tuple(predictions), tuple(predicted))


# ---- losses ----


def test_pixels_of_one_segment_attract_each_other():
    [truth] = GridTruth.of([map_of()], 4, 4, torch.device("cpu"))
    x = outputs_of(truth.masks.shape[1])
    cells = [int(cell) for cell in truth.labelled.nonzero()]
    each = []
    for j in cells:
        scores = {i: (x.features[:, i] @ x.features[:, j] / 0.3).exp() for i in cells}
        same = [i for i in cells if bool((truth.masks[:, i] & truth.masks[:, j]).any())]
        each.append(-sum((scores[i] / sum(scores.values())).log() for i in same) / len(same))
    torch.testing.assert_close(pixel_contrast(x.features, truth), sum(each) / len(each))


def test_all_layers_have_the_losses_and_the_matching_of_the_last():
    head = KMaXDeepLab((8, 8, 8), (8, 16, 32), CLASSES, **SMALL).train()
    features = [torch.randn(2, 8, 64 // stride, 96 // stride) for stride in (8, 16, 32)]
    targets = [random_targets(("panoptic",), (64, 96), 4, torch.Generator().manual_seed(n)) for n in (0, 1)]
    outputs = head(features, torch.zeros(2, 64, 96, dtype=torch.bool))
    assert [x.shape for x in outputs["layers"][0]] == [(2, 6, 5), (2, 6, 8, 12), (2, 8, 8, 12)]
    assert len(outputs["layers"]) == 4 and outputs["cells"].shape == (2, 4, 8, 12)
    head.criterion.sampling = None  # the sampled losses are random
    found = head.criterion.losses(outputs["layers"], None, targets, LossContext())
    truths = GridTruth.of(targets, 4, 8, torch.device("cpu"))
    total = 0.0
    for i, truth in enumerate(truths):
        layers = [type(outputs_of(1))(x[0][i], x[1][i].flatten(1), x[2][i].flatten(1)) for x in outputs["layers"]]
        [matched] = match(layers[-1:], [truth])
        for layer in layers[:-1]:
            terms = head.criterion.terms(layer, matched)
            total = total + 3 * terms["label"] + 3 * terms["dice"] + 0.3 * terms["mask"] + terms["instance"]
    torch.testing.assert_close(found["auxiliary"], total / 2)


def test_the_semantic_loss_has_a_class_of_void_on_request():
    """A row of logits that no pixel has as its label, as in the authors' code: it is in the softmax only."""
    options = {**SMALL, "semantic_void": True}
    head = KMaXDeepLab((8, 8, 8), (8, 16, 32), CLASSES, **options).train()
    features = [torch.randn(2, 8, 64 // stride, 96 // stride) for stride in (8, 16, 32)]
    cells = head(features, torch.zeros(2, 64, 96, dtype=torch.bool))["cells"]
    assert cells.shape == (2, len(CLASSES) + 1, 8, 12)
    [truth] = GridTruth.of([map_of((64, 96))], 4, 8, torch.device("cpu"))
    head.criterion.sampling = None
    logits = cells[0].flatten(1)
    expected = []
    for cell in truth.labelled.nonzero()[:, 0]:
        [label] = truth.labels[truth.masks[:, cell]]
        expected.append(-logits[:, cell].log_softmax(0)[label])
    torch.testing.assert_close(head.criterion.semantic_term(logits, truth), torch.stack(expected).mean())


# ---- predictions ----


def test_cells_are_at_their_first_pixels_with_aligned_corners():
    """The authors' arithmetic: targets are every fourth pixel; masks are upsampled to 4 n + 1 pixels, cropped, resized
    to the file, and are a softmax over queries."""
    head = KMaXDeepLab((8, 8), (4, 8), CLASSES, **SMALL, align_corners=True).eval()
    logits, masks = torch.randn(1, 6, 5), 3 * torch.randn(1, 6, 9, 9)
    target = {"size": (33, 26), "original_size": (61, 48)}
    upsampled = F.interpolate(masks, (33, 33), mode="bilinear", align_corners=True)[..., :26]
    p = F.interpolate(upsampled, (61, 48), mode="bilinear", align_corners=True)[0].softmax(0)
    [found] = head.predict({"logits": logits, "masks": masks}, [target])
    expected = torch.einsum("qk,qhw->khw", logits[0].softmax(-1)[:, :-1], p).argmax(0)
    assert torch.equal(found["semantic"], expected.to(torch.uint8))
    exported = head.exported({"logits": logits, "masks": masks}, (33, 26), (61, 48))
    torch.testing.assert_close(exported["mask_logits"][0].sigmoid(), p)

    ids = map_of((33, 26))
    [truth] = GridTruth.of([ids], 4, 4, torch.device("cpu"), align_corners=True)
    cells = torch.stack([ids["panoptic"][::4, ::4] == segment for segment in (0, 1, 2000)])
    assert torch.equal(truth.masks, cells.flatten(1)) and head.criterion.align_corners


def test_masks_are_laid_down_by_score_and_left_out_if_covered():
    logits = torch.full((6, 5), -20.0)
    for query, label in enumerate([0, 0, 2, 2, 1, 4]):  # two cats, sky twice, a dog, no object
        logits[query, label] = 0.0
    logits[1, 4], logits[4, 4] = -1.0, -0.5  # class probabilities 0.73 and 0.62
    p = torch.tensor([
        [0.9, 0.9, 0.05, 0.0, 0.0, 0.1, 0.0],
        [0.0, 0.1, 0.45, 0.0, 0.0, 0.0, 0.5],
        [0.1, 0.0, 0.5, 0.9, 0.0, 0.0, 0.5],
        [0.0, 0.0, 0.0, 0.1, 0.9, 0.3, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.0],
    ])  # fmt: skip
    masks = SoftmaxMasks((p + 1e-9).log()[:, None], 1, (1, 7), (1, 7))
    # Both skies come before the second cat, which is left out: both of its pixels are covered. The dog is below 0.7.
    assert maskwise_panoptic(logits, masks, CLASSES, 0.7, 0.5).tolist() == [[0, 0, 2000, 2000, 2000, -1, 2000]]
    # Without the first sky, the second cat stays.
    logits[2, 4] = 3.0
    assert maskwise_panoptic(logits, masks, CLASSES, 0.7, 0.5).tolist() == [[0, 0, 1, -1, 2000, -1, 1]]
    assert (maskwise_panoptic(logits, masks, CLASSES, 1.0, 1.0) == -1).all()


# ---- cost ----
