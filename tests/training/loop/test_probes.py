"""Image classification and probes through whole trainings: methods without heads, two processes, errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import densevit
from densevit.cli import main
from densevit.config import from_mapping
from densevit.data.data_builder import build_data
from densevit.errors import ConfigError
from densevit.evaluation.feature_probes import NearestNeighbours
from densevit.interfaces import Batch, LossContext, Losses, Method
from densevit.training.loop.feature_cache import cached_features
from densevit.training.loop.probes import build_probes, encoder, fit_probes, probe_predictions
from tests.built_models import build_model
from tests.training.process_groups import in_two_processes, linux
from tests.training.runs import assert_same


class Nothing(Method):
    """Minimises the features: a method without labels, heads and validation loss."""

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        features: list[Tensor] = model.backbone(model.normalise(batch["images"], batch["padding_mask"]))
        return {"size": features[-1].square().mean()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of images of several sizes, whose colours differ."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 3)):
        for channel, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (*rng.integers(40, 60, 2), 3), np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def config_of(photos: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "backbone": {"name": "resnet", "depth": 18},
        "heads": {},
        "method": {"name": f"{__name__}:Nothing"},
        "probes": {"knn": {"k": 5}, "linear_probe": {}},
        "data": {"name": "image_folder", "root": str(photos), "transforms": "resized_crop", "image_size": 32,
                 "batch_size": 9, "num_workers": 0},
        "optim": {"lr": 1e-4},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "precision": "32"},
    }  # fmt: skip
    return values | changes


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_a_method_without_heads_is_evaluated_by_probes(photos: Path, tmp_path: Path) -> None:
    run = densevit.fit(from_mapping(config_of(photos), "test"), run_dir=tmp_path / "run")
    assert set(run.metrics) == {
        f"{probe}/{name}" for probe in ("knn", "linear_probe") for name in ("top1", "top5", "mAcc")
    }
    assert run.metrics["linear_probe/top1"] > 0.6  # the colour is in the features of random weights
    assert (tmp_path / "run" / "confusion-knn.csv").is_file()


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_classifier_is_trained_predicted_and_read_by_a_detector(photos, tmp_path, capsys):
    data = config_of(photos)["data"] | {"mixup": 0.8, "cutmix": 1.0}
    data["transforms"] = {"name": "resized_crop", "rand_augment": 5, "random_erasing": 0.25}
    heads = {"classification": {"name": "classifier"}}
    config = config_of(photos, heads=heads, method={"name": "supervised"}, data=data, probes={"knn": {}})
    run = densevit.fit(from_mapping(config, "test"), run_dir=tmp_path / "run")
    assert {"classification/top1", "knn/top1"} <= set(run.metrics)
    result = run.model.predict(str(photos / "val" / "red" / "0.png"))
    assert result.class_name == run.model.classes["classification"][int(result.class_scores.argmax())].name
    assert json.loads(result.to_json())["heads"]["classification"]["image_class"]["name"] == result.class_name
    assert float(result.class_scores.sum()) == pytest.approx(1, abs=1e-5)
    assert main(["predict", str(run.path), str(photos / "val" / "red"), "--out", str(tmp_path / "out")]) == 0
    assert f"0.png: {result.class_name} {float(result.image_score):.2f}\n" in capsys.readouterr().out
    backbone = {"name": "resnet", "depth": 18, "weights": str(run.path)}
    detector = densevit.create_model(backbone, heads={"d": "one_stage"}, classes=["a"])
    assert_same(detector.backbone.state_dict(), run.model.backbone.state_dict())


def test_features_of_two_processes_are_those_of_one(photos: Path) -> None:
    """Each training image is in the features once, in the order of the data set, also where a mix repeats it."""
    folder = {"name": "image_folder", "root": str(photos)}
    sets = {"a": {**folder, "share": 1}, "b": {**folder, "share": 3}}
    mix = {"name": "mix", "sets": sets, "transforms": "resize", "image_size": 32, "batch_size": 9, "num_workers": 0}
    for changes, count in (({}, 27), ({"data": mix}, 54)):
        config = from_mapping(config_of(photos, **changes), "test")
        data = build_data(config)
        model = build_model(config, data.train).eval()
        fitted = []
        for world in (1, 2):
            batches = [batch for rank in range(world) for batch in data.unaugmented_train_loader(rank, world)]
            probe = NearestNeighbours(data.classes["classification"])
            fit_probes({"knn": probe}, batches, encoder(model))
            fitted.append(probe)
        labels = [probe._labels.tolist() for probe in fitted]
        assert [len(found) for found in labels] == [count, count]
        if not changes:
            assert labels[0] == labels[1] == [label for label in range(3) for _ in range(9)]
            torch.testing.assert_close(fitted[0]._features, fitted[1]._features)


def evaluated(rank: int, world: int) -> dict[str, Any]:
    """The probes of dense features, fitted to all processes' training images; and their states of this process."""
    probes = {"patch_knn": {"k": [1, 3]}, "patch_retrieval": {}, "surface_normals": {}, "view_correspondence": {}}
    data = {"name": "scenes", "image_size": 32, "train_length": 25, "val_length": 5, "normals": True, "batch_size": 2,
            "num_workers": 0}  # fmt: skip
    config = from_mapping(config_of(Path(), backbone={"name": "pixels"}, probes=probes, data=data), "test")
    splits = build_data(config)
    model, built = build_model(config, splits.train).eval(), build_probes(config, splits.val)
    encode = encoder(model)
    with cached_features(model, "fp32", 30):
        fit_probes(built, splits.unaugmented_train_loader(rank, world), encode)
        for batch in splits.val_loader(rank, world):
            truths = [target["truth"] for target in batch["targets"]]
            for name, predictions in probe_predictions(built, encode, batch).items():
                built[name].update(predictions, truths)
    return built


@linux
@pytest.mark.integration
def test_dense_probes_of_two_processes_are_those_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process has every training image, in the order of the data set, and the features of both from the cache."""
    monkeypatch.setenv("DENSEVIT_CACHE", str(tmp_path / "cache"))

    def work(rank: int) -> None:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        probes = evaluated(rank, 2)
        fitted = [probes["patch_retrieval"]._keys, probes["surface_normals"]._weight, probes["patch_knn"].choice]
        torch.save((fitted, {name: probe.state() for name, probe in probes.items()}), tmp_path / f"{rank}.pt")

    in_two_processes(work, tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    expected = evaluated(0, 1)
    for fitted, _ in parts:
        torch.testing.assert_close(fitted[0], expected["patch_retrieval"]._keys, rtol=0, atol=0)
        torch.testing.assert_close(fitted[1], expected["surface_normals"]._weight)
        assert fitted[2] == expected["patch_knn"].choice
    for name, probe in expected.items():
        metrics = probe.metrics()
        probe.merge([states[name] for _, states in parts])
        assert probe.metrics() == pytest.approx(metrics, abs=1e-6, nan_ok=True)
    assert len([*tmp_path.glob("cache/features/*/*.features")]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probes": {"knn": {"n": 5}}}, r"probes\.knn\.n is not an option"),
        ({"probes": {"depth": {}}}, r"probes\.depth: the evaluator 'depth' is not a FeatureProbe"),
        (
            {"data": {"name": "scenes", "image_size": 32}},
            r"probes\.knn \(knn\): the data set 'scenes' has no image_class",
        ),
    ],
)
def test_errors_name_the_probe(photos: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        densevit.fit(from_mapping(config_of(photos, **changes), "test"), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
