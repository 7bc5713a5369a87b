"""The mask2former heads: targets, masked attention, points, memory, predictions and options."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densevit.config import InferenceSection
from densevit.interfaces import Class, Dataset
from densevit.losses.context import LossContext
from densevit.model import DenseModel, inference_by_head
from densevit.set_prediction import mask_criterion
from densevit.set_prediction.mask_criterion import MaskCriterion
from densevit.set_prediction.mask_points import sample
from densevit.set_prediction.mask_predictions import MaskLogits, instances, panoptic, semantic
from densevit.set_prediction.mask_segments import Segments
from densevit.targets import RunLengthMasks
from densevit_heads.mask2former import Mask2Former, Mask2FormerInstance, Mask2FormerSemantic
from densevit_heads.mask2former.options import MaskTransformer, PixelDecoderOptions
from densevit_workbench.testing.targets import random_targets
from tests.model.small_models import Stem

TRANSFORMER = MaskTransformer(width=32, num_heads=2, decoder_layers=3, feedforward=16)
PIXEL_DECODER = PixelDecoderOptions(layers=1, feedforward=16)
SMALL = {"num_queries": 6, "transformer": TRANSFORMER, "pixel_decoder": PIXEL_DECODER, "num_points": 64}
CLASSES = [Class(name, i, (i, i, i), thing=name.islower()) for i, name in enumerate(["cat", "dog", "SKY", "SEA"])]


# ---- targets ----


def test_segments_of_a_panoptic_map_leave_out_void_crowds_and_unknown_classes():
    ids = torch.tensor([[0, 0, -1], [1002, 3000, 3000], [1002, 1005, 9000]], dtype=torch.int32)
    target = {"panoptic": ids, "panoptic_crowds": [1005], "size": (3, 3), "image_id": "a"}
    other = {"panoptic": torch.full((2, 2), -1, dtype=torch.int32), "size": (2, 2), "image_id": "b"}
    segments = Segments.of([target, other, target], "panoptic", 4, ids.device)
    assert segments.ids.tolist() == [0, 1002, 3000] * 2
    assert segments.labels.tolist() == [0, 1, 3] * 2
    assert (segments.counts, segments.names) == ([3, 0, 3], ["a", "b", "a"])
    centres = torch.tensor([[0.5, 0.5], [0.5 / 3, 0.5 / 3], [2.5 / 3, 1.5 / 3]])
    last = segments.at(torch.tensor([3, 4, 5]), centres.expand(3, -1, -1))
    assert last.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_values_at_points_are_bilinear_samples_of_the_masks(task):
    size = (23, 31)
    maps = torch.randint(4, size, generator=torch.Generator().manual_seed(0))
    masks = maps == torch.arange(4)[:, None, None]
    target = {"size": size, "panoptic": maps.int() * 1000 + 7, "semantic": maps.to(torch.uint8)}
    target |= {"masks": RunLengthMasks.from_dense(masks, size), "labels": torch.arange(4)}
    segments = Segments.of([target], task, 4, maps.device)
    points = torch.rand(4, 50, 2)
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.001, 0.5], [0.5, 0.999]])  # pixels outside count as 0
    torch.testing.assert_close(
        segments.at(torch.arange(4), points), sample(masks[:, None].float(), points)[:, 0], rtol=1e-4, atol=1e-5
    )


# ---- masked attention, points and losses ----


def test_semantic_loss_is_the_mean_cross_entropy_of_each_segment(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    ids = torch.tensor([[0, 0, 1000, -1], [0, 3000, 1000, 3000]]), torch.tensor([[1, 1], [2000, -1], [3000, 1], [2, 2]])
    targets = [{"panoptic": x.int().repeat_interleave(8, 0).repeat_interleave(8, 1)} for x in ids]
    targets = [{**target, "size": tuple(target["panoptic"].shape)} for target in targets]  # 16 x 32 and 32 x 16
    cells, scales = torch.randn(2, 4, 4, 4), torch.tensor([[1.0, 0.5], [0.5, 1.0]])  # of a batch of 32 x 32
    segments = Segments.of(targets, "panoptic", 4, cells.device)
    grids = [torch.cartesian_prod(*((torch.arange(n) + 0.5) / n for n in target["size"])).flip(1) for target in targets]
    monkeypatch.setattr(mask_criterion, "random_points", lambda *args: torch.stack(grids))  # the centres of all pixels
    found = MaskCriterion("panoptic", 4, 5, 512, 8)._semantic_term(cells, segments, scales, None)

    expected = torch.zeros(())
    for x, target in zip(cells, targets, strict=True):
        upsampled = F.interpolate(x[None], scale_factor=8, mode="bilinear")[
            0, :, : target["size"][0], : target["size"][1]
        ]
        for one in target["panoptic"].unique().tolist():
            if one >= 0:
                expected -= upsampled.log_softmax(0)[one // 1000][target["panoptic"] == one].mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)


# ---- predictions ----


def of_regions(*regions, size=(4, 4)):
    """Mask logits at stride 1: 8 inside the (rows, columns) of a query, -8 outside."""
    logits = torch.full((len(regions), *size), -8.0)
    for x, (rows, columns) in zip(logits, regions, strict=True):
        x[rows, columns] = 8.0
    return MaskLogits(logits, 1, size, size)


def confident(*labels, probability=0.9):
    """Class logits (Q, K+1) with this probability for a label of each query."""
    p = torch.full((len(labels), len(CLASSES) + 1), (1 - probability) / len(CLASSES))
    p[range(len(labels)), list(labels)] = probability
    return p.log()


def test_panoptic_segments_that_are_unsure_or_covered_are_void():
    whole, row = (slice(0, 4), slice(0, 4)), (slice(0, 1), slice(0, 4))
    logits = confident(0, 1, 3, probability=0.9)
    logits[0] = confident(0, probability=0.99)[0]
    found = panoptic(logits, of_regions((slice(0, 2), slice(0, 4)), whole, row), CLASSES)
    assert found.tolist() == [[0] * 4] * 2 + [[-1] * 4] * 2  # of the dog half remains, of the sea nothing
    unsure = confident(0, probability=0.79), of_regions(whole), CLASSES
    assert (panoptic(*unsure) == -1).all() and (panoptic(*unsure, threshold=0.75) == 0).all()
    assert panoptic(confident(0), of_regions(row), CLASSES).tolist() == [[0] * 4] + [[-1] * 4] * 3


def test_predictions_match_transformers_post_processing():
    """At 384 x 384, to which transformers resizes every mask."""
    from transformers.models.mask2former.image_processing_mask2former import Mask2FormerImageProcessor
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

    torch.manual_seed(2)
    Q, K = 12, len(CLASSES)
    fields = F.interpolate(torch.randn(1, Q, 5, 5), size=(96, 96), mode="bicubic")
    best = fields.topk(2, dim=1).values
    masks = 9 * (fields - torch.where(fields == best[:, :1], best[:, 1:], best[:, :1])) + 0.5  # overlap a little
    logits = 3 * torch.randn(1, Q, K + 1) + 9 * F.one_hot(torch.arange(Q) % (K + 1), K + 1)
    outputs = Mask2FormerForUniversalSegmentationOutput(class_queries_logits=logits, masks_queries_logits=masks)
    ours = MaskLogits(masks[0], 4, (384, 384), (384, 384))
    processor = Mask2FormerImageProcessor()

    [wanted] = processor.post_process_semantic_segmentation(outputs)
    assert (semantic(logits[0], ours) == wanted).float().mean() > 0.9999

    found = instances(logits[0], ours, CLASSES, things=False)
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    [wanted] = processor.post_process_instance_segmentation(outputs, threshold=0.0, return_binary_maps=True)
    own = list(zip(found["scores"], found["labels"], found["masks"], strict=True))
    assert len(own) == Q * K and len(wanted["segments_info"]) == Q  # it keeps as many as there are queries, ours 100
    for one, mask in zip(wanted["segments_info"], wanted["segmentation"], strict=True):
        alike = [m for score, label, m in own if abs(score - one["score"]) < 1e-5 and label == one["label_id"]]
        assert any((m != mask).sum() <= 2 for m in alike)

    stuff = {i for i, one in enumerate(CLASSES) if not one.thing}
    [wanted] = processor.post_process_panoptic_segmentation(outputs, threshold=0.8, label_ids_to_fuse=stuff)
    labels = {one["id"]: one["label_id"] for one in wanted["segments_info"]}
    ids = panoptic(logits[0], ours, CLASSES)
    assert len(labels) >= 2 and (ids >= 0).float().mean() > 0.3
    for one in ids[ids >= 0].unique().tolist():  # theirs also assigns pixels with a mask probability below 0.5
        [segment] = wanted["segmentation"][ids == one].unique().tolist()
        assert labels[segment] == one // 1000


@torch.no_grad()
def test_semantic_maps_are_sums_over_queries():
    """Of masks at the size of the image; the windows and flips of inference average them."""
    head = Mask2FormerSemantic((16,), (16,), CLASSES, **SMALL).eval()
    outputs = head([torch.randn(1, 16, 4, 6)], torch.zeros(1, 64, 96, dtype=torch.bool))
    masks = F.interpolate(outputs["masks"], (64, 96), mode="bilinear").sigmoid()
    scores = torch.einsum("bqk,bqhw->bkhw", outputs["logits"].softmax(-1)[..., :-1], masks)
    torch.testing.assert_close(head.maps(outputs, (64, 96)), scores)
    torch.testing.assert_close(head.maps(outputs, (50, 33)), scores[..., :50, :33])
    assert inference_by_head(DenseModel(Stem(), {"head": head}), InferenceSection(window=64, flip=True))


# ---- size and options ----


def test_more_segments_than_queries_are_reported():
    few = {**SMALL, "num_queries": 2}
    head = Mask2FormerInstance((16,), (16,), CLASSES, **few)
    target = random_targets(("masks", "labels"), (128, 128), 4, torch.Generator().manual_seed(0), image_id=7)
    outputs = head([torch.randn(1, 16, 8, 8)], torch.zeros(1, 128, 128, dtype=torch.bool))
    with pytest.warns(UserWarning, match="image 7 has 3 segments, but num_queries is 2: 1 of them are not learned"):
        head.loss(outputs, [target], LossContext())
    dataset = Dataset()
    dataset.object_counts = lambda: np.array([1, 3, 2])
    for kind in (Mask2FormerInstance, Mask2Former):
        head = kind((16,), (16,), CLASSES, **few)
        with pytest.warns(UserWarning, match="1 of 3 training images have more objects than queries; one of .* has 3"):
            head.check(dataset)
    with warnings.catch_warnings():  # one query per class suffices
        warnings.simplefilter("error")
        Mask2FormerSemantic((16,), (16,), CLASSES, **few).check(dataset)


def test_panoptic_prediction_has_instances_of_things_only():
    found = instances(confident(0, 2), of_regions(*[(slice(0, 2), slice(0, 4))] * 2), CLASSES, things=True)
    assert sorted(found["labels"].tolist()) == [0, 0, 1, 1]  # two queries times two things
    assert found["scores"][0] == pytest.approx(0.9, abs=1e-3)  # times the mask's mean probability, sigmoid(8)
    assert found["boxes"][0].tolist() == [0, 0, 4, 2]
