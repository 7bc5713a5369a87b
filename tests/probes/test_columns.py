"""Columns of densevit probe: fewer labels, corrupted images, noise, objects, equal tokens, and several data sets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import densevit
from densevit import registry
from densevit.errors import ConfigError
from densevit.interfaces import Class, Evaluator
from densevit.targets.run_length_masks import RunLengthMasks
from densevit_probes.corruptions import CORRUPTIONS, corrupted
from densevit_probes.label_efficiency import label_subset
from densevit_probes.probe import Probe
from densevit_probes.probing import ProbeResult
from densevit_probes.sets import over_sets

DATA = (
    "{name: scenes, image_size: [48, 64], batch_size: 4, transforms: resize, train_length: 10, val_length: 4, "
    "num_workers: 0}"
)
CLASSES = [Class(str(i), i + 1, (0, 0, 0)) for i in range(4)]


class Mean(Evaluator):
    """The mean of values."""

    main = "value"

    def record(self, prediction, truth):
        return prediction["value"]

    def compute(self, records):
        return {"value": sum(records) / len(records) if records else float("nan")}


class Brightness(Probe):
    """The mean of an image times the number of training images: a score that noise on features does not change."""

    required_targets, evaluator = ("semantic",), Mean

    def features(self, encode, batch, stride):
        return [float(image[:, :48, :64].float().mean()) for image in batch["images"]]

    def fit(self, images):
        self.images = images

    def predict(self, image, size):
        return {"value": image * sum(self.images)}


@pytest.fixture
def protocol(cwd) -> Path:
    path = cwd / "tiny.yaml"
    path.write_text(
        f"probes: {{bright: {{name: '{__name__}:Brightness'}}, retrieval: {{name: patch_retrieval}}}}\n"
        f"heads: {{segmentation: {{name: linear}}}}\ntrainer: {{max_images: 8}}\ndata: {DATA}"
    )
    return path


def images(split: str) -> list[dict]:
    """The images of a split, a batch each."""
    from densevit import config as configs
    from densevit.config import yaml_io
    from densevit.data.data_builder import build_data

    values = {"backbone": {"name": "pixels"}, "heads": {}, "data": {**yaml_io.parse(DATA, "test"), "batch_size": 1}}
    data = build_data(configs.from_mapping({**values, "trainer": {"max_steps": 1}}, "test"))
    return [*(data.val_loader() if split == "val" else data.unaugmented_train_loader())]


def brightness(batch) -> float:
    """Without padding."""
    return float(batch["images"][..., :48, :64].float().mean())


@pytest.mark.integration
def test_columns_of_a_probe_by_hand(protocol):
    options = {"labels": (20, 100), "robustness": True, "instances": True, "noise": True}
    result = densevit.probe({"name": "pixels", "patch_size": 8}, str(protocol), device="cpu", **options)
    train = [brightness(x) for x in images("train")]
    factor, val = sum(train), images("val")

    def mean(values):
        return pytest.approx(np.mean(values), rel=1e-5)

    bright = [brightness(x) for x in val]
    assert result.metrics["bright/value"] == mean(np.array(bright) * factor)
    chosen = sum(train[i] for i in label_subset(10, 0.2))
    assert result.metrics["bright, 20 % of the labels/value"] == mean(np.array(bright) * chosen)
    for severity in (1, 3, 5):
        name = f"bright, corruptions of severity {severity}/value"
        values = [[brightness(corrupted(x, c, severity)) for c in CORRUPTIONS] for x in val]
        assert result.metrics[name] == mean(np.array(values) * factor)
        draws = np.random.default_rng(0).integers(4, size=(300, 4))
        bounds = np.quantile(np.mean(values, 1)[draws].mean(1) * factor, (0.025, 0.975))
        assert result.intervals[name] == pytest.approx(bounds, rel=1e-5)
    assert result.metrics["retrieval, 100 % of the labels/mIoU"] == result.metrics["retrieval/mIoU"]
    assert result.metrics["retrieval, 20 % of the labels/mIoU"] != result.metrics["retrieval/mIoU"]
    assert "bright/value" in result.insensitive
    assert "same_object/auc" in result.intervals and 0.5 < result.metrics["same_object/auc"] < 1
    for name in ("segmentation", "retrieval", "same_object"):
        main_metric = next(x.partition("/")[2] for x in result.main if x.startswith(f"{name}/"))
        noisy = [result.metrics[f"{name}, noise {strength}/{main_metric}"] for strength in ("0.5", "1", "2")]
        falls = all(a >= b for a, b in zip([result.metrics[f"{name}/{main_metric}"], *noisy], noisy, strict=False))
        assert (f"{name}/{main_metric}" in result.insensitive) is not falls
    assert not any("labels" in name and name.startswith(("segmentation", "same_object")) for name in result.metrics)
    assert result.metrics["bright, noise 2/value"] == result.metrics["bright/value"]


def result(backbone: str, **metrics: float | None) -> ProbeResult:
    values = {f"a/{name}": value for name, value in metrics.items()}
    intervals = dict.fromkeys(values, (0.0, 1.0))
    return ProbeResult(backbone, "p", values, intervals, ("a/iou", "a/error"), ("a/error",), {}, {}, 1.0)


def test_means_and_ranks_over_sets_by_hand():
    """Of three backbones on three sets; x failed on the third, and only the first has the class."""
    sets = {
        "s": [
            result("x", iou=0.5, error=2, c=1),
            result("y", iou=0.3, error=1, c=1),
            result("z", iou=0.3, error=3, c=0),
        ],
        "t": [result("x", iou=0.7, error=4), result("y", iou=0.9, error=4), result("z", iou=0.1, error=None)],
        "u": [result("y", iou=0.0, error=9), result("z", iou=0.0, error=9)],
    }
    x, y, z = over_sets(sets)
    assert x.main == ("a/iou", "a/error", "a/iou, mean rank", "a/error, mean rank")
    assert [r.metrics["a/iou"] for r in (x, y, z)] == pytest.approx([0.6, 0.6, 0.2])
    assert [r.metrics["a/error"] for r in (x, y, z)] == [3, 2.5, None]
    assert [r.metrics["a/iou, mean rank"] for r in (x, y, z)] == [1.5, 1.75, 2.75]
    assert [r.metrics["a/error, mean rank"] for r in (x, y, z)] == [1.75, 1.25, 3]
    assert x.intervals["a/iou"] == pytest.approx((0.5, 0.7)) and "a/error" not in z.intervals
    assert "a/c" not in x.metrics and x.metrics["a, s/c"] == 1 and x.intervals["a, t/iou"] == (0, 1)
    assert {"a/error, mean rank", "a/error"} <= {*x.error_metrics} and x.seconds == 2
    assert over_sets({"s": sets["s"], "t": sets["t"][:2]})[0].intervals.keys() == {"a, s/iou", "a, s/error", "a, s/c"}
    assert over_sets({"s": []}) == []


@pytest.mark.parametrize(("labels", "fact"), [((0,), "labels is 0, of 2"), ((1, 101), "labels is 1, 101")])
def test_wrong_shares_are_errors_before_images_are_encoded(labels, fact, protocol):
    with pytest.raises(ConfigError, match=f"{fact}.*Fix: "):
        densevit.probe("pixels", str(protocol), labels=labels, device="cpu")


@pytest.mark.parametrize("name", [*registry.find("probes")])
def test_probes_place_cells_by_the_stride_where_the_last_cells_are_not_full(name):
    """An input of 40 x 56 pixels in cells of 16: what a probe reads is the same as with the padding of the cells."""
    generator = torch.Generator().manual_seed(0)
    size, stride = (40, 56), 16
    masks = np.zeros((2, *size), bool)
    masks[0, :20, 3:33], masks[1, 17:, 20:] = True, True
    target = {
        "image_id": 1,
        "size": size,
        "original_size": size,
        "semantic": torch.randint(4, size, generator=generator, dtype=torch.uint8),
        "normals": F.normalize(torch.randn(3, *size, generator=generator), dim=0),
        "masks": RunLengthMasks.from_dense(masks, size),
        "labels": torch.tensor([1, 1]),
        "image_class": torch.tensor(2),
    }
    target["truth"] = dict(target)
    maps = [torch.randn(1, 5, 3, 4, generator=generator) for _ in range(2)]
    kind, read = registry.load("probes", name), []
    for padding in ((0, 0), (8, 8)):
        remaining = [[x] for x in maps]
        mask = F.pad(torch.zeros(1, *size, dtype=torch.bool), (0, padding[1], 0, padding[0]), value=True)
        batch = {"images": torch.zeros(1, 3, *mask.shape[1:]), "padding_mask": mask, "targets": [target]}
        read += kind(CLASSES).features(lambda _, remaining=remaining: remaining.pop(0), batch, stride)
    first, second = ([*x] if isinstance(x, tuple | list) else [x] for x in read)
    for a, b in zip(first, second, strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)
