"""The cache of a frozen backbone's features: exact, of these weights and images alone, after interruptions; errors."""

import os
from collections import namedtuple
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import densevit
from densevit.config import from_mapping
from densevit.errors import ConfigError, DensevitError, PluginError
from densevit.training.loop import feature_cache
from densevit.training.loop.feature_cache import FeatureCache, cached_features
from tests.training.runs import checkpoint, interrupted_after, recorded, resume
from tests.written_files import save_image


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


class Coarser(Counted):
    """Claims a stride of 32 that is 16."""

    strides = (8, 32)


class Random(Counted):
    """Also in evaluation."""

    def forward(self, images):
        return [F.dropout(x, 0.5) for x in super().forward(images)]


@pytest.fixture(autouse=True)
def folder(own_cache) -> Path:
    return own_cache / "features"


def model_of(seed=0, name="Counted", head="linear", **options):
    torch.manual_seed(seed)
    return densevit.create_model({"name": f"{__name__}:{name}", **options}, {"s": head}, ["a", "b"]).eval()


def computed(model, images, precision="fp32", count=10):
    """The features through the cache, and the number of images that the backbone got."""
    cache, Counted.images = FeatureCache(model, precision, count), 0
    return cache(images), Counted.images


def same(features, expected, **tolerance):
    for x, y in zip(features, expected, strict=True):
        torch.testing.assert_close(x, y, **tolerance)


@pytest.mark.parametrize(("precision", "rtol"), [("fp32", 0), ("fp16", 2**-11)])
def test_features_are_computed_once_and_equal(precision, rtol, folder):
    """Of maps of 5 x 7 and 4 x 4 cells, in two runs, and of a batch that is known in part."""
    model, batches = model_of(), [torch.randn(4, 3, 40, 56), torch.randn(2, 3, 32, 32)]
    part = torch.cat([batches[0], batches[0][:1] + 1])
    # The first image of a run is computed again, to check that it is equal.
    for x, expected in ((batches[0], 5), (batches[1], 3), *((x.flip(0), 1) for x in batches), (part, 2)):
        found, count = computed(model, x, precision)
        assert count == expected
        same(found, model.backbone(x), rtol=rtol, atol=1e-7)
    assert len([*folder.iterdir()]) == 1


def test_a_model_reads_its_cache_and_hooks_see_the_backbone():
    """The backbone's forward pass runs for new images, and once more for the first, which is compared."""
    model, images, calls = model_of(), torch.randint(256, (3, 3, 32, 48), dtype=torch.uint8), []
    model.backbone.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    expected = model.features(images)
    model.cache = FeatureCache(model, "fp32", 3)
    for part in (model, model.with_heads(["s"])):
        same(part.features(images), expected, rtol=0, atol=1e-7)
        same([part(images)["s"]["logits"]], [model_of()(images)["s"]["logits"]], rtol=0, atol=1e-6)
    assert calls == [3, 3, 1] and "forward" not in vars(model.backbone)


@pytest.mark.parametrize("error", [None, KeyError("images")])
def test_a_model_reads_its_backbone_again_afterwards(error):
    model, images = model_of(), torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with pytest.raises(KeyError) if error else nullcontext(), cached_features(model, "fp16", 2):
        assert isinstance(model.cache, FeatureCache)
        model.features(images)
        if error:
            raise error
    model.backbone.second.bias.data += 1
    assert torch.equal(model.features(images)[1], model.backbone(model.normalise(images, images[:, 0] > 255))[1])


def test_other_weights_options_images_and_precisions_have_other_features():
    images, trained = torch.randn(2, 3, 32, 32), model_of()
    trained.backbone.norm.running_mean[0] = 1e-3
    others = [
        (trained, images),
        (model_of(seed=1), images),
        (model_of(slope=0.2), images),
        *((model_of(), x) for x in (images, F.pad(images, (0, 16)), images + 1e-6, images.flip(3))),
    ]
    for model, x in others:
        found, count = computed(model, x)
        assert count == 3
        same(found, model.backbone(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert computed(model_of(), images)[1] == computed(model_of(), images, "fp16")[1] == 3
    assert computed(model_of(), images)[1] == 1


@pytest.mark.parametrize(("ending", "share", "left"), [("images", 0, 0), ("images", 0.5, 2), ("features", 0.52, 2)])
def test_rows_that_an_interruption_cut_off_are_computed_again(ending, share, left, folder):
    """Without identities, and where the third of five has a part of its identity or of its features."""
    model, images = model_of(), torch.randn(5, 3, 40, 56)
    computed(model, images)
    [file] = folder.glob(f"*/*.{ending}")
    os.truncate(file, int(share * file.stat().st_size))
    for expected in (5 - left + 1, 1):
        found, count = computed(model, images)
        assert count == expected
        same(found, model.backbone(images))


def test_two_processes_write_at_once(folder):
    """Alternately, some images both; each has files of its own, and a later run reads both."""
    images, model = torch.randn(6, 3, 32, 32), model_of()
    caches = [FeatureCache(model, "fp32", 6), FeatureCache(model_of(), "fp32", 6)]
    for rank, rows in ((0, [0, 1]), (1, [1, 2]), (0, [2, 3]), (1, [4, 5])):
        caches[rank](images[rows])
    found, count = computed(model_of(), images)
    assert (count, len([*folder.glob("*/*.features")])) == (1, 2)
    same(found, model.backbone(images))


def disk_of(monkeypatch, free):
    usage = namedtuple("usage", "total used free")(1 << 50, 0, free)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: usage)


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        ("Counted", lambda m: disk_of(m, 1 << 30), r"of 10 images need 0\.0 GB, and .* has room for 0\.0 GB. Fix: "),
        ("Counted", lambda m: m.setattr(feature_cache, "open", lambda *_: os.listdir("/missing"), raising=False),
         "backbone.cache: .*features: No such file or directory. Fix: free disk space, or backbone.cache=null"),
        ("Counted", lambda m: m.setenv("DENSEVIT_CACHE", "/dev/null"), "Fix: set DENSEVIT_CACHE to a folder on a disk"),
        ("Counted", lambda m: m.setenv("DENSEVIT_CACHE", "off"), "cache is set, but DENSEVIT_CACHE is off. Fix: unset"),
        ("Random", lambda m: None, r"gives other features than .* \(by .*random in evaluation mode, or its code"),
    ],
)  # fmt: skip
def test_errors_are_one_line(name, fault, message, monkeypatch):
    fault(monkeypatch)
    with pytest.raises(DensevitError, match=message) as error:
        computed(model_of(name=name), torch.randn(4, 3, 32, 32))
    assert "\n" not in str(error.value)


def test_features_of_other_strides_are_not_stored(folder):
    for _ in range(2):
        with pytest.raises(PluginError, match=r"Coarser: level 1 .* Fix: set its strides to \[8, 16\]"):
            computed(model_of(name="Coarser"), torch.randn(4, 3, 32, 64))
    assert not [*folder.glob("*/*")]


# ---- whole runs ----


@pytest.fixture
def config(tmp_path) -> dict[str, Any]:
    """Of label maps of images of two sizes, some pixels 255, and a backbone whose weights are not the seed's."""
    rng, name = np.random.default_rng(0), f"{__name__}:Counted"
    for split, i in [("train", i) for i in range(6)] + [("val", i) for i in range(3)]:
        size = (64, 64) if i % 2 else (40, 64)
        for kind, pixels in (("images", rng.integers(0, 256, (*size, 3))), ("labels", rng.choice([0, 1, 255], size))):
            save_image(tmp_path / kind / split / f"{i}.png", pixels.astype(np.uint8))
    torch.manual_seed(5)
    densevit.save(densevit.create_model({"name": name}, {"s": "linear"}, ["a", "b"]), tmp_path / "w.safetensors")
    return {
        "backbone": {"name": name, "weights": str(tmp_path / "w.safetensors"), "freeze": True, "cache": "fp32"},
        "heads": {"s": {"name": "linear", "features": [1, 2]}},
        "data": {"name": "label_maps", "root": str(tmp_path), "classes": ["a", "b"], "transforms": "resize",
                 "image_size": 64, "batch_size": 2, "num_workers": 0},
        "optim": {"lr": 1e-2},
        "trainer": {"max_steps": 6, "evaluate_every_epochs": 2, "precision": "32", "accelerator": "cpu", "ema": 0.9,
                    "log_every": 1, "checkpoint_every": 1},
    }  # fmt: skip


def trained(values, path):
    Counted.images = 0
    return densevit.fit(from_mapping(values, "test"), run_dir=path).path


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_runs_with_the_cache_have_the_losses_of_those_without_and_resumed_ones_read_it(config, tmp_path):
    without = trained({**config, "backbone": config["backbone"] | {"cache": None}}, tmp_path / "without")
    passes, first = Counted.images, trained(config, tmp_path / "first")
    assert 0 < Counted.images < passes
    with interrupted_after(3):
        trained(config, tmp_path / "stopped")
    stopped = tmp_path / "stopped"
    assert resume(stopped) == stopped and Counted.images == 2  # with the weights of the checkpoint
    for run in (first, stopped):
        for row, expected in zip(recorded(run), recorded(without), strict=True):
            assert numbers(row) == pytest.approx(numbers(expected), abs=1e-6)
    saved, initial = load_file(first / "model.safetensors"), load_file(config["backbone"]["weights"])
    assert saved.keys() == load_file(without / "model.safetensors").keys()
    for name in {name for name in initial if name.startswith("backbone.")}:
        assert torch.equal(saved[name], initial[name])
        assert f"model.{name}" in checkpoint(first)["current_model_state"]


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
@pytest.mark.parametrize("fails", [False, True])
def test_a_trained_model_keeps_no_cache(fails, config, tmp_path):
    from pytorch_lightning.callbacks import LambdaCallback

    def fail(*_: Any) -> None:
        raise OSError("disk")

    model = densevit.create_model(config["backbone"], config["heads"], ["a", "b"])
    callbacks = [LambdaCallback(on_validation_start=fail)] if fails else []
    keys = {f"data.{key}": value for key, value in config["data"].items()} | {"trainer.max_steps": 1}
    with pytest.raises(OSError, match="disk") if fails else nullcontext():
        densevit.fit(model, keys, callbacks=callbacks, run_dir=tmp_path / "run", accelerator="cpu", lr=1e-2)
    assert model.cache is None


def numbers(row: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("backbone", {"freeze": False}, "fp32 needs backbone.freeze=true"),
        ("backbone", {"freeze": 1}, "fp32 needs backbone.freeze=true"),
        ("data", {"transforms": "default"}, "backbone.cache: data.transforms 'default' and their options change the"),
        ("data", {"transforms": "crop"}, "data.transforms 'crop' and their options"),
        ("data", {"mosaic": 0.5}, "backbone.cache: .*without mosaic"),
        ("backbone", {"name": f"{__name__}:Random", "weights": "random"}, "random in evaluation mode"),
    ],
)
def test_a_config_that_cannot_be_cached_is_an_error(section, options, message, config, tmp_path):
    with pytest.raises(ConfigError, match=message):
        trained({**config, section: config[section] | options}, tmp_path / "run")
