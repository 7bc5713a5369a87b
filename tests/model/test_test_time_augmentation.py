"""Flips and scales against the mean of their predictions, and memory use."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import collate
from densevit.model import streaming_resize
from tests.model.small_models import Depth, Pixels, Segmenter, Stem, batch_of, depth_of, infer, model_of


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
    (found,) = depth_of(model, batch_of(model, (45, 58), original=(80, 101)), scales=scales, flip=flip)
    torch.testing.assert_close(found, torch.full((80, 101), 8.0))


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
    batch = batch_of(model, (600, 200), original=(900, 300))
    with Largest() as largest:
        (result,) = infer(model, batch, InferenceSection(window=32, flip=True, scales=(1.0, 0.5)))["segmentation"]
    assert result["semantic"].shape == (900, 300) and largest.bytes <= 4 * 50 * 32 * 200
