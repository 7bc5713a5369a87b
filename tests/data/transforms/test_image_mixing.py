"""densevit/data/transforms/image_mixing.py: MixUp and CutMix, whose labels have the shares of the pixels."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit.data.transforms.image_mixing import ImageMixing
from densevit.errors import ConfigError
from densevit.interfaces import Sample
from densevit.targets import TargetTypes
from tests.data.transforms.test_mosaic import SIZES, data_of, traced


def sample(seed: int = 0, size: tuple[int, int] = (40, 60), **targets: Any) -> Sample:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, *size), np.uint8)
    return {
        "image": torch.from_numpy(pixels),
        "targets": {"image_id": seed, "size": size, "image_class": torch.tensor(seed % 5), **targets},
    }


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_and_shares_are_mixed_alike(kind):
    """The shares of the labels are those of the pixels."""
    samples = [sample(i) for i in range(5)]
    for i, one in enumerate(samples):
        one["image"] = torch.full((3, 40, 60), 50 * i, dtype=torch.uint8)
    mixed = ImageMixing(**{kind: 1.0})(samples, [0, 1], TargetTypes())
    for i, one in enumerate(mixed):
        (first, share), (second, rest) = one["targets"]["image_class"].tolist()
        assert (first, second) == (i, (i - 1) % 5) and share + rest == pytest.approx(1)
        expected = share * 50 * i + rest * 50 * ((i - 1) % 5)
        assert float(one["image"].float().mean()) == pytest.approx(expected, abs=0.5)
        values = {*one["image"].unique().tolist()}
        assert len(values) == 1 if kind == "mixup" else values <= {50 * i, 50 * ((i - 1) % 5)}
        assert one["targets"]["image_id"] == i and one["image"].dtype == torch.uint8
    again = ImageMixing(**{kind: 1.0})(samples, [0, 1], TargetTypes())
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(mixed, again, strict=True))


def test_mixup_keeps_the_objects_of_both_images():
    samples = [traced(number, size) for number, size in enumerate(SIZES[:3])]
    for sample in samples:
        del sample["targets"]["semantic"]
    for number, result in enumerate(ImageMixing(mixup=8.0)(samples, [0], TargetTypes())):
        targets, pair = result["targets"], [samples[number], samples[number - 1]]
        canvas = np.zeros((2, 3, 50, 70))  # the largest sides of the batch; black around the smaller image
        masks = np.zeros((12, 50, 70), bool)
        for place, one in enumerate(pair):
            height, width = one["targets"]["size"]
            canvas[place, :, :height, :width] = one["image"]
            masks[6 * place : 6 * place + 6, :height, :width] = np.asarray(one["targets"]["masks"])
        assert targets["size"] == (50, 70) == tuple(result["image"].shape[1:])
        np.testing.assert_allclose(targets["boxes"], torch.cat([one["targets"]["boxes"] for one in pair]), atol=1e-4)
        assert targets["labels"].tolist() == [*range(10 * number, 10 * number + 6), *pair[1]["targets"]["labels"]]
        np.testing.assert_array_equal(np.asarray(targets["masks"]), masks)
        difference = canvas[0] - canvas[1]
        best = (difference * (result["image"].numpy() - canvas[1])).sum() / (difference**2).sum()  # least squares
        assert 0 < best < 1
        np.testing.assert_allclose(result["image"], canvas[0] * best + canvas[1] * (1 - best), atol=1)


def test_labels_that_cannot_be_put_together_are_refused():
    with pytest.raises(ConfigError, match=r"the data set labels semantic, which cannot be mixed"):
        data_of("scenes", depth=False, mixup=8.0).check_splits()
    with pytest.raises(ConfigError, match=r"labels boxes of objects, a part of which it would cut out\. Fix: leave it"):
        data_of("scenes", depth=False, semantic=False, cutmix=1.0).check_splits()
    data_of("scenes", depth=False, mosaic=1.0).check_splits()
