"""Faster R-CNN and FCOS as heads: levels, normalisers, and exported outputs."""

import math
from typing import Any

import torch
from torch import Tensor

from densevit import registry
from densevit.interfaces import Class, Head
from densevit.losses.context import LossContext
from tests.heads.padded_batch import padded_batch, perturbed

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(3)]
SMALL: dict[str, dict[str, Any]] = {
    "faster_rcnn": {"width": 16, "box_width": 16, "num_proposals": 50, "num_samples": 32},
    "fcos": {"width": 64, "score_threshold": 0.0},
}


def make_head(name: str) -> Head:
    torch.manual_seed(0)
    return perturbed(registry.load("heads", name)([6], [8], CLASSES, **SMALL[name]), 0.05)


def test_anchors_have_the_strides_of_the_levels_at_any_size():
    """torchvision's have 96 // 2 = 48 at stride 64. In float32 also if the model is cast."""
    from torchvision.models.detection.image_list import ImageList

    from densevit_heads.torchvision_detectors.levels import StrideAnchors

    anchors = StrideAnchors((32, 64), 2.0, (1.0,)).half()
    maps = [torch.zeros(1, 8, 3, 4, dtype=torch.bfloat16), torch.zeros(1, 8, 2, 2, dtype=torch.bfloat16)]
    found = anchors(ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)]), maps)
    centres = [
        [x * stride, y * stride] for stride, h, w in ((32, 3, 4), (64, 2, 2)) for y in range(h) for x in range(w)
    ]
    assert len(found) == 1 and found[0].dtype == torch.float32
    assert ((found[0][:, :2] + found[0][:, 2:]) / 2).tolist() == centres
    assert (found[0][:, 2:] - found[0][:, :2]).tolist() == [[64.0, 64.0]] * 12 + [[128.0, 128.0]] * 4


def test_regions_are_pooled_at_the_level_of_their_size():
    """Equation 1 of Lin et al. 2017: a region of 224 pixels at stride 16, larger and smaller ones in proportion."""
    from densevit_heads.torchvision_detectors import FasterRCNN

    stride = 7
    strides = [stride * 2**i for i in range(4)]
    pooling = FasterRCNN([8] * 4, strides, CLASSES, width=8, box_width=8).roi_heads.box_roi_pool
    sides = torch.tensor([1.0, 60.0, 100.0, 250.0, 440.0, 900.0])
    levels = pooling.map_levels([torch.stack([0 * sides, 0 * sides, sides, sides], dim=1)])
    expected = [min(max(math.floor(math.log2(16 * side / 224 / stride)), 0), 3) for side in sides.tolist()]
    assert levels.tolist() == expected and pooling.scales == [1 / own for own in strides]


def losses_of(head: Head, images: list[int], count: float | None = None, key: str = "") -> dict[str, Tensor]:
    """Losses of these images in evaluation mode. count: the normaliser of the step."""
    torch.manual_seed(2)
    features, mask, targets = padded_batch()
    counts = {} if count is None else {key: torch.tensor(count)}
    with torch.no_grad():
        outputs = head.eval()([x[images] for x in features], mask[images])
        return head.loss(outputs, [targets[i] for i in images], LossContext(counts=counts))


def test_fcos_is_divided_by_the_foreground_of_the_step():
    """With one normaliser, the losses of images add up to those of their batch."""
    head = make_head("fcos")
    parts = [losses_of(head, [i], 7.0, "foreground") for i in range(3)]
    for term, value in losses_of(head, [0, 1, 2], 7.0, "foreground").items():
        torch.testing.assert_close(sum(part[term] for part in parts), value)
        assert value > 0


def test_faster_rcnn_is_weighted_by_the_labelled_images_of_the_step():
    """Here of a step with 1.5 labelled images in the mean of its batches, of which this one has two."""
    head = make_head("faster_rcnn")
    plain = losses_of(head, [0, 2])
    assert head.loss_counts([{"boxes": 0, "labels": 0}, {}]) == {"images": 1}
    for term, value in losses_of(head, [0, 2], 1.5, "images").items():
        torch.testing.assert_close(value, plain[term] * 2 / 1.5)


def test_exported_scores_are_zero_in_the_padding():
    head = make_head("fcos").eval()
    with torch.no_grad():
        outputs = head([torch.randn(1, 6, 6, 8)], torch.zeros(1, 48, 64, dtype=torch.bool))
        scores = head.exported(outputs, (40, 50))["scores"]  # (1, S, K)
    finest = scores[0, :48].view(6, 8, 3).amax(-1)
    assert (finest[:5, :7] > 0).all() and not finest[5:].any() and not finest[:, 7:].any()
