"""Windows, flips and scales against loops over complete maps, and memory use."""

import pytest
import torch
from torch.nn import functional as F

from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import collate
from tests.model.small_models import Depth, Segmenter, Stem, batch_of, depth_of, infer, model_of


def maps_of(model, image):
    """Maps of a single image or window, (C, h, w), padded to its own next multiple."""
    batch = collate([{"image": image, "targets": {"size": tuple(image.shape[1:])}}], model.size_divisor)
    head = next(iter(model.heads.values()))
    return head.maps(model(batch)[head.task], tuple(image.shape[1:]))[0]


def slide_whole(image, maps, window, stride):
    """The sum and the count of all windows, over the whole image; the layout follows mmsegmentation's loop."""
    h, w = image.shape[1:]
    (wh, ww), (sh, sw) = window, stride
    total, count = 0, torch.zeros(h, w)
    for i in range(max(h - wh + sh - 1, 0) // sh + 1):
        for j in range(max(w - ww + sw - 1, 0) // sw + 1):
            bottom, right = min(i * sh + wh, h), min(j * sw + ww, w)
            top, left = max(bottom - wh, 0), max(right - ww, 0)
            found = maps(image[:, top:bottom, left:right])
            total = total + F.pad(found, (left, w - right, top, h - bottom))
            count[top:bottom, left:right] += 1
    assert (count > 0).all()
    return total / count


@pytest.mark.parametrize(
    ("size", "window", "stride", "original", "batch_size"),
    [
        ((61, 83), (32, 32), (21, 21), None, 1),  # overlapping, odd
        ((70, 90), (32, 24), (32, 24), (97, 41), 4),  # adjacent, except for the last
        ((50, 30), (24, 48), (16, 32), (33, 120), 100),  # wider than the image
        ((20, 30), (48, 48), (32, 32), (301, 7), 1),  # larger than the image
        ((40, 47), (21, 30), (14, 7), None, 4),  # windows not divisible by the stride
    ],
)
def test_sliding_matches_a_loop_over_windows(size, window, stride, original, batch_size):
    model = model_of(Stem(), Depth)
    batch = batch_of(model, size, original=original)
    image = batch["images"][0, :, : size[0], : size[1]]
    with torch.no_grad():
        expected = slide_whole(image, lambda x: maps_of(model, x), window, stride)
    expected = F.interpolate(expected[None], original or size, mode="bilinear")[0, 0]
    (whole,), (found,) = (
        depth_of(model, batch, **section) for section in ({}, dict(window=window, stride=stride, batch_size=batch_size))
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ((whole - found).abs().max() > 1e-2) == (window != (48, 48))  # windows differ from the whole image


# ---- flips and scales ----


def test_class_probabilities_and_depths_are_averaged():
    model = model_of(Stem(), Segmenter, Depth)
    segmentation, depth = model.heads.values()
    segmentation.factor = 30.0
    batch = batch_of(model, (61, 83), original=(90, 120))
    image = batch["images"][0, :, :61, :83]

    def maps(x, head, softmax=False):
        padded = collate([{"image": x, "targets": {}}], 4)
        found = head.maps(model(padded)[head.task], tuple(x.shape[1:]))[0]
        return found.softmax(0) if softmax else found

    def expected(*kind):
        with torch.no_grad():
            mean = slide_whole(image, lambda x: maps(x, *kind), (32, 32), (12, 12))
        return F.interpolate(mean[None], (90, 120), mode="bilinear")[0]

    labels = {}
    for average in ("logits", "probabilities"):
        section = InferenceSection(window=32, stride=12, average=average)
        found = {name: own[0] for name, own in infer(model, batch, section).items()}
        classes, metres = expected(segmentation, average == "probabilities"), expected(depth)
        assert (found["segmentation"]["semantic"] != classes.argmax(0)).float().mean() < 1e-3
        torch.testing.assert_close(found["depth"]["depth"], metres[0], rtol=1e-5, atol=1e-5)
        labels[average] = found["segmentation"]["semantic"]
    assert (labels["logits"] != labels["probabilities"]).any()
