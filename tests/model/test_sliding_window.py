"""Windows, flips and scales against loops over complete maps, and memory use."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import collate
from densevit.model import inference_by_head, streaming_resize
from tests.model.small_models import Depth, Pixels, Segmenter, Stem, batch_of, inferred, model_of


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


def infer(model, batch, section):
    """Predictions with these options for every head that makes maps."""
    return inferred(model, batch, inference_by_head(model, section))


@torch.no_grad()
def depth_of(model, batch, **section):
    return [found["depth"] for found in infer(model, batch, InferenceSection(**section))["depth"]]


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


@pytest.mark.parametrize("section", [{}, {"window": 24, "stride": 10}])
def test_flip_averages_with_the_mirrored_prediction(section):
    model = model_of(Stem(), Depth)
    batch = batch_of(model, (41, 54), (43, 53))
    found = depth_of(model, batch, flip=True, **section)
    for own, image, target in zip(found, batch["images"], batch["targets"], strict=True):
        image = image[:, : target["size"][0], : target["size"][1]]
        mirrored = {"image": image.flip(-1), "targets": target}
        (straight,) = depth_of(model, collate([{"image": image, "targets": target}], 4), **section)
        (other,) = depth_of(model, collate([mirrored], 4), **section)
        torch.testing.assert_close(own, (straight + other.flip(-1)) / 2, rtol=1e-5, atol=1e-5)
        assert (own - straight).abs().max() > 1e-2


@pytest.mark.parametrize(("section", "flip"), [({}, False), ({"window": 30, "stride": 11}, True)])
def test_scales_are_averaged_at_the_image_size(section, flip):
    model = model_of(Stem(), Depth)
    batch = batch_of(model, (45, 58), original=(80, 101))
    (found,) = depth_of(model, batch, scales=(0.5, 1.0, 1.3), flip=flip, **section)
    image, expected = batch["images"][0, :, :45, :58], 0
    for size in ((22, 29), (45, 58), (58, 75)):  # 22.5 rounds to even; 58.5 and 75.4
        seen = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().to(torch.uint8)
        target = {"size": size, "original_size": size}
        (maps,) = depth_of(model, collate([{"image": seen, "targets": target}], 4), flip=flip, **section)
        zoom = math.sqrt(math.prod(size) / (45 * 58))  # by which training divides depth
        expected = expected + zoom * F.interpolate(maps[None, None], (45, 58), mode="bilinear") / 3
    expected = F.interpolate(expected, (80, 101), mode="bilinear")[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class Metres(Depth):
    """Eight metres divided by the zoom, as in training; the zoom is derived from the number of pixels of each image."""

    usual = 45 * 58

    def maps(self, outputs, size):
        inside = self.inside * math.prod(outputs["logits"].shape[2:])  # pixels of each image
        return (8 * (self.usual / inside).sqrt())[:, None, None, None].expand(-1, 1, *size)


@pytest.mark.parametrize(("scales", "flip"), [((0.5, 1.0, 2.0), False), ((0.75, 1.0, 1.3), True)], ids=str)
def test_depth_of_each_scale_is_converted_to_zoom_1(scales, flip):
    """8 m become 16 m at half the size and 4 m at twice the size; their mean would be 9.33 m."""
    model = model_of(Pixels(), Metres)
    batch = batch_of(model, (45, 58), original=(80, 101))
    (found,) = depth_of(model, batch, scales=scales, flip=flip)
    torch.testing.assert_close(found, torch.full((80, 101), 8.0))


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


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operation returned."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        found = [x.untyped_storage().nbytes() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.bytes = max(self.bytes, *found, 0)
        return result


@pytest.mark.integration
def test_memory_depends_on_the_window_not_the_image(monkeypatch):
    """Like 8,000 x 6,000 pixels with windows of 512, scaled by a thirtieth: no tensor is larger than a strip."""
    monkeypatch.setattr(streaming_resize, "MAX_STRIP_NUMEL", 2**16)
    model = model_of(Pixels(), Segmenter, classes=50)
    batch, section = batch_of(model, (600, 200), original=(900, 300)), {"flip": True, "scales": (1.0, 0.5)}
    with Largest() as largest:
        (found,) = infer(model, batch, InferenceSection(window=32, **section))["segmentation"]
    assert found["semantic"].shape == (900, 300)
    assert largest.bytes <= 4 * 50 * 32 * 200
