"""The cache of a frozen backbone's features: exact, of these weights and images only, also after interruptions."""

import os
import re
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import densevit
from densevit.config import from_mapping
from densevit.errors import ConfigError, DensevitError
from densevit.training.loop import feature_cache
from densevit.training.loop.feature_cache import cached_features
from tests.training.runs import checkpoint, interrupted_after, recorded, resume


class Counted(densevit.Backbone):
    """Two maps with a batch norm; counts the images of its forward passes."""

    channels, strides = (4, 6), (8, 16)
    images = 0

    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        self.slope = slope
        self.first, self.norm, self.second = nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 2, 2)

    def forward(self, images):
        Counted.images += len(images)
        x = F.leaky_relu(self.norm(self.first(images)), self.slope)
        return [x, self.second(F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)))]


class Random(Counted):
    """Also in evaluation."""

    def forward(self, images):
        return [F.dropout(x, 0.5) for x in super().forward(images)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DENSEVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def model_of(seed=0, name="Counted", head="linear", **options):
    torch.manual_seed(seed)
    return densevit.create_model({"name": f"{__name__}:{name}", **options}, {"s": head}, ["a", "b"]).model.eval()


def computed(model, images, precision="fp32", count=10):
    """The features through the cache, and the number of images that the backbone got."""
    with cached_features(model, precision, count):
        Counted.images = 0
        return model.backbone(images), Counted.images


def same(features, expected, **tolerance):
    for x, y in zip(features, expected, strict=True):
        torch.testing.assert_close(x, y, **tolerance)


SIZES = [(4, 3, 40, 56), (2, 3, 32, 32)]  # a map of 5 x 7 cells, and one of 3 x 4


@pytest.mark.parametrize(("precision", "rtol"), [("fp32", 0), ("fp16", 2**-11)])
def test_features_are_computed_once_and_equal(precision, rtol, folder):
    model = model_of()
    batches = [torch.randn(size) for size in SIZES]
    expected = [model.backbone(x) for x in batches]
    for x, maps in zip(batches, expected, strict=True):
        found, count = computed(model, x, precision)
        assert count == 2 * len(x)  # the first images of a run twice, to check that they are equal
        same(found, maps, rtol=rtol, atol=1e-7)
    for x, maps in zip(batches, expected, strict=True):
        found, count = computed(model_of(), x.flip(0), precision)  # another run
        assert count == 0
        same(found, [m.flip(0) for m in maps], rtol=rtol, atol=1e-7)
    mixed = torch.cat([batches[0], batches[0][:1] + 1])
    found, count = computed(model, mixed, precision)
    assert count == 2
    same(found, model.backbone(mixed), rtol=rtol, atol=1e-7)
    assert "forward" not in vars(model.backbone) and len([*folder.iterdir()]) == 1


def test_other_weights_options_images_and_precisions_have_other_features():
    images = torch.randn(2, 3, 32, 32)
    computed(model_of(), images)
    padded, recoloured = F.pad(images, (0, 16)), images + 1e-6
    trained = model_of()
    trained.backbone.norm.running_mean[0] = 1e-3
    cases = [(model_of(seed=1), images), (trained, images), (model_of(slope=0.2), images), (model_of(), padded),
             (model_of(), recoloured), (model_of(), images.flip(3))]  # fmt: skip
    for model, x in cases:
        expected = model.backbone(x)
        found, count = computed(model, x)
        assert count == 4
        same(found, expected)
    assert computed(model_of(), images, "fp16")[1] == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert computed(model_of(), images)[1] == 4
    assert computed(model_of(), images)[1] == 0


@pytest.mark.parametrize(("ending", "rows"), [("images", 4 * 16), ("images", 2 * 16 + 7), ("features", 2.6), (None, 0)])
def test_rows_that_an_interruption_cut_off_are_computed_again(ending, rows, folder):
    """Without identities, with a part of one, with a part of the features, and without the file of identities."""
    model, images = model_of(), torch.randn(5, 3, 40, 56)
    computed(model, images)
    [features], [identities] = folder.glob("*/*.features"), folder.glob("*/*.images")
    if ending == "features":
        os.truncate(features, int(rows * features.stat().st_size / 5))
    elif ending == "images":
        os.truncate(identities, rows)
    else:
        identities.unlink()
    left = {None: 0, "features": 2, "images": rows // 16}[ending]
    found, count = computed(model, images)
    assert count == 2 * (5 - left)
    same(found, model.backbone(images))
    assert computed(model, images)[1] == 0


def test_two_processes_write_at_once(folder):
    """Alternately, some images both; each has files of its own, and a later run reads both."""
    images = torch.randn(6, 3, 32, 32)
    models = [model_of(), model_of()]
    with cached_features(models[0], "fp32", 6), cached_features(models[1], "fp32", 6):
        for part in ([0, 1], [2, 3], [1, 4]):
            for rank, model in enumerate(models):
                model.backbone(images[[n + rank for n in part]])
    assert len([*folder.glob("*/*.features")]) == 2
    found, count = computed(model_of(), images)
    assert count == 0
    same(found, models[0].backbone(images))


def disk_of(monkeypatch, free):
    usage = namedtuple("usage", "total used free")(1 << 50, 0, free)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: usage)


def test_only_this_runs_features_need_space_and_old_caches_make_room(folder, monkeypatch):
    """32 x 32 pixels have 4 * 16 + 6 * 4 numbers: 352 bytes an image, and 16 of its identity."""
    images = torch.randn(20, 3, 32, 32)
    computed(model_of(), images[:10], count=20)
    disk_of(monkeypatch, (1 << 30) + 10 * 352)
    assert computed(model_of(), images, count=20)[1] == 20  # ten rows are there
    disk_of(monkeypatch, 1 << 40)
    monkeypatch.setattr(feature_cache, "_LIMIT", 20 * 368 + 10 * 352)
    with pytest.raises(DensevitError, match="the features of 11 images need"):
        computed(model_of(seed=1), images, count=11)
    for cache in folder.iterdir():
        os.utime(cache, (0, 0))
    assert computed(model_of(seed=2), images, count=11)[1] == 40
    assert len([*folder.iterdir()]) == 1


def full_disk(monkeypatch):
    disk_of(monkeypatch, (1 << 30) + 1000)


def no_folder(monkeypatch):
    Path(os.environ["DENSEVIT_CACHE"]).write_text("")


def broken_disk(monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "open", no_space, raising=False)


@pytest.mark.parametrize(
    ("options", "fault", "message"),
    [
        (
            {},
            full_disk,
            r"features of 10 images need 0\.0 GB, and .*features has room for 0\.0 GB. Fix: backbone.cache=f",
        ),
        ({}, broken_disk, "No space left on device. Fix: free disk space, or backbone.cache=null"),
        ({}, no_folder, "backbone.cache: .*cache.*. Fix: set DENSEVIT_CACHE to a folder"),
        ({}, lambda m: m.setenv("DENSEVIT_CACHE", "off"), "cache is set, but DENSEVIT_CACHE is off. Fix: unset one"),
        ({"name": "Random"}, None, r"gives other features for the same images \(by .*random in evaluation mode. Fix:"),
    ],
)
def test_errors_are_one_line(options, fault, message, monkeypatch):
    if fault is not None:
        fault(monkeypatch)
    with pytest.raises(DensevitError, match=message) as error:
        computed(model_of(**options), torch.randn(4, 3, 32, 32))
    assert "\n" not in str(error.value)


# ---- whole runs ----


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Images of two sizes, with label maps of three classes; some pixels are 255."""
    root, rng = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            size = (64, 64) if i % 2 else (40, 64)
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), rng.integers(0, 256, (*size, 3), np.uint8))
            labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
            cv2.imwrite(str(root / "labels" / split / f"{i}.png"), labels)
    return root


def config_of(root, tmp_path, cache="fp32", backbone=(), **changes):
    torch.manual_seed(5)
    weights = tmp_path / "weights.safetensors"
    if not weights.exists():
        name = f"{__name__}:Counted"
        densevit.save(densevit.create_model({"name": name}, {"s": "linear"}, ["a", "b", "c"]), weights)
    values = {
        "backbone": {"name": f"{__name__}:Counted", "weights": str(weights), "freeze": True, "cache": cache},
        "heads": {"s": {"name": "linear", "features": [1, 2]}},
        "data": {"name": "label_maps", "root": str(root), "classes": ["a", "b", "c"], "transforms": "resize",
                 "image_size": 64, "batch_size": 2, "num_workers": 0},
        "optim": {"lr": 1e-2},
        "trainer": {"max_steps": 6, "evaluate_every": 2, "precision": "32", "accelerator": "cpu", "ema": 0.9,
                    "log_every": 1, "checkpoint_every": 1},
    }  # fmt: skip
    for section, options in {"backbone": dict(backbone), **changes}.items():
        values[section] = values[section] | options
    return values


def trained(values, path):
    Counted.images = 0
    return densevit.fit(from_mapping(values, "test"), run_dir=path).path


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_runs_with_the_cache_have_the_losses_of_those_without_and_resumed_ones_read_it(root, tmp_path):
    without = trained(config_of(root, tmp_path, None), tmp_path / "without")
    passes = Counted.images
    assert passes >= 6 * 2 + 3
    first = trained(config_of(root, tmp_path), tmp_path / "first")
    assert 0 < Counted.images < passes + 3
    with interrupted_after(3):
        stopped = trained(config_of(root, tmp_path), tmp_path / "stopped")
    assert Counted.images == 0
    assert resume(stopped) == stopped and Counted.images == 0  # with the weights of the checkpoint
    expected = recorded(without)
    assert sum("loss" in "".join(row) for row in expected) >= 6
    for run in (first, stopped):
        for row, other in zip(recorded(run), expected, strict=True):
            assert row.keys() == other.keys()
            for key, value in row.items():
                same_value = value == other[key] or float(value) == pytest.approx(float(other[key]), abs=1e-6)
                assert same_value, (key, value, other[key])
    content = checkpoint(first)
    backbone = {name for name in content["state_dict"] if name.startswith("model.backbone.")}
    assert backbone and backbone <= content["current_model_state"].keys()
    saved, initial = load_file(first / "model.safetensors"), load_file(tmp_path / "weights.safetensors")
    assert saved.keys() == load_file(without / "model.safetensors").keys()
    for name in (n for n in initial if n.startswith("backbone.")):
        assert torch.equal(saved[name], initial[name])


def test_the_average_leaves_out_frozen_modules():
    from densevit.training.loop.ema import averaged_state

    model = model_of()
    model.backbone.requires_grad_(False)
    names = {name for name in model.state_dict() if not name.startswith("backbone.")}
    assert averaged_state(model, nn.Identity()).keys() == {f"model.{name}" for name in names}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": {"freeze": False}}, "fp32 needs backbone.freeze=true"),
        ({"backbone": {"freeze": 1}}, "fp32 needs backbone.freeze=true"),
        ({"data": {"transforms": "fixed"}}, "backbone.cache: data.transforms 'fixed' and their options change the"),
        ({"data": {"transforms": {"name": "crop"}}}, "data.transforms 'crop' and their options"),
        ({"data": {"mosaic": 0.5}}, "backbone.cache: .*without mosaic"),
        ({"backbone": {"name": f"{__name__}:Random", "weights": "random"}}, "gives other features for the same images"),
    ],
)
def test_a_config_that_cannot_be_cached_is_an_error_of_one_line(changes, message, root, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message) if "*" not in message else message):
        trained(config_of(root, tmp_path, **changes), tmp_path / "run")
