"""The mask2former heads: targets, masked attention, points, memory, predictions and options."""

import torch
from torch.nn import functional as F

from densevit.config import InferenceSection
from densevit.interfaces import Class
from densevit.model import DenseModel, inference_by_head
from densevit.set_prediction.mask_predictions import MaskLogits, instances, panoptic, semantic
from densevit.set_prediction.mask_segments import Segments
from densevit_heads.mask2former import Mask2FormerSemantic
from densevit_heads.mask2former.pixel_decoder import MaskTransformer, PixelDecoderOptions
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


# ---- masked attention, points and losses ----


# ---- predictions ----


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
