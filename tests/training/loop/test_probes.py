"""Image classification and probes through whole trainings: methods without heads, two processes, errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import densevit
from densevit.cli import main
from densevit.config import from_mapping
from densevit.errors import ConfigError
from densevit.interfaces import Batch, LossContext, Losses, Method
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probes": {"knn": {"n": 5}}}, r"probes\.knn\.n is not an option"),
        ({"probes": {"depth": {}}}, r"probes\.depth: the evaluator 'depth' is not a FeatureProbe"),
        ({"data": {"name": "scenes", "image_size": 32}}, r"probes\.knn classifies images, but the data set 'scenes'"),
    ],
)
def test_errors_name_the_probe(photos: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        densevit.fit(from_mapping(config_of(photos, **changes), "test"), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
