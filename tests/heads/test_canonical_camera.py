"""Every head for depth learns and predicts metres of a canonical camera."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import densevit
from densevit import registry
from densevit.errors import ConfigError, DataError, DensevitError
from densevit.interfaces import LossContext
from densevit.targets import Depth, FocalLength, TargetTypes
from tests.heads.test_depth_limits import Depths
from tests.small_models import FOUR_MAPS

HEADS = [
    name
    for name in registry.find("heads")
    if any(isinstance(TargetTypes().get(key), Depth) for key in registry.load("heads", name).required_targets)
]
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def built(name: str, camera: str | None = "canonical", **options: Any) -> Any:
    """A model of small maps and a head for metres."""
    if "output" in inspect.signature(registry.load("heads", name)).parameters:
        options = {"output": "softplus", "width": 8, **options}
    torch.manual_seed(0)
    model = densevit.create_model(FOUR_MAPS, {"x": {"name": name, "camera": camera, **options}}, None)
    return model.eval()


class Seen(Depths):
    """Depths, seen by a camera of 600 pixels."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, "targets": {**sample["targets"], "focal": 600.0}}


@pytest.mark.parametrize("name", HEADS)
def test_predictions_follow_the_focal_length(name, tmp_path):
    assert len(HEADS) > 1
    model, plain = built(name, canonical_focal=500.0), built(name, None)
    expected = torch.as_tensor(plain.predict(IMAGE).depth)  # of the camera that the labels have
    for focal in (250.0, 500.0, 1000.0):
        torch.testing.assert_close(torch.as_tensor(model.predict(IMAGE, focal=focal).depth), expected * (focal / 500))
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 36
    Image.fromarray(IMAGE).save(tmp_path / "a.jpg", exif=exif)
    found, decoded = (torch.as_tensor(m.predict(tmp_path / "a.jpg").depth) for m in (model, plain))
    torch.testing.assert_close(found, decoded * (36 * 80 / 43.2666153 / 500))
    Image.fromarray(IMAGE).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png' has no focal length.*--focal PIXELS, predict\(focal=PIXELS\)"):
        model.predict(tmp_path / "b.png")
    for wrong, focal in ((plain, 500.0), (model, 0.0)):
        with pytest.raises(DensevitError, match="focal is .*; a number of pixels above 0, or a list of one per image"):
            wrong.predict(IMAGE, focal=focal)


@pytest.mark.parametrize("name", HEADS)
def test_losses_are_those_of_labels_of_the_canonical_camera(name):
    head, plain = built(name).heads["x"], built(name, None).heads["x"]
    features = [torch.rand(2, c, 32 // s, 32 // s) for c, s in zip((8, 8, 16, 16), (4, 8, 16, 32), strict=True)]
    mask, depth = torch.zeros(2, 32, 32, dtype=torch.bool), 12 * torch.rand(2, 32, 32)
    focals = (150.0, 600.0)
    targets = [{"size": (32, 32), "depth": x, "focal": f} for x, f in zip(depth, focals, strict=True)]
    seen = [{"size": (32, 32), "depth": x * 300 / f} for x, f in zip(depth, focals, strict=True)]
    losses = head.loss(head(features, mask), targets, LossContext())
    torch.testing.assert_close(losses, plain.loss(plain(features, mask), seen, LossContext()))
    assert all(losses.values())
    assert head.loss_counts([targets[0]]) == plain.loss_counts([seen[0]])
    with pytest.raises(DataError, match=r"image 7 has no focal length.*data\.focal=PIXELS, a third"):
        head.loss(head(features, mask), [{**x, "image_id": 7} for x in seen], LossContext())


@pytest.mark.parametrize("name", HEADS)
def test_the_data_is_checked(name):
    output = {"output": "bins"} if "output" in inspect.signature(registry.load("heads", name)).parameters else {}
    built(name, **output).heads["x"].check(Seen([18.0, 19.0]))  # at most 9.5 canonical metres
    with pytest.raises(ConfigError, match=r"metres of the canonical camera, has a median of 15 m"):
        built(name, **output).heads["x"].check(Seen([30.0]))
    with pytest.raises(DataError, match="image 0 has no focal length"):
        built(name).heads["x"].check(Depths([1.0]))
    kept: Any = Seen([1.0])
    kept.provides = {"depth": Depth("keep")}
    with pytest.raises(ConfigError, match=r"under_zoom is 'keep' for the data set's depth, 'divide' for its focal"):
        built(name).heads["x"].check(kept)
    kept.provides["focal"] = FocalLength("keep")
    built(name).heads["x"].check(kept)
    with pytest.raises(DensevitError, match="canonical_focal is 0"):
        built(name, canonical_focal=0.0)


def test_relative_depth_has_no_camera():
    with pytest.raises(DensevitError, match="camera is 'canonical', but output 'relative' has no metres"):
        built("dpt", output="relative")
