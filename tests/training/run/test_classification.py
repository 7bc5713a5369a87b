"""A classifier from training to a detector that reads its backbone."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densevit
from densevit.config import from_mapping
from tests.training.runs import assert_same


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of images of several sizes, whose colours differ."""
    root, rng = tmp_path / "photos", np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 3)):
        for channel, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (*rng.integers(40, 60, 2), 3), np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_classifier_is_trained_and_read_by_a_detector(photos, tmp_path):
    config = {
        "backbone": {"name": "resnet", "depth": 18},
        "heads": {"classification": {"name": "classifier"}},
        "data": {"name": "image_folder", "root": str(photos), "image_size": 32, "batch_size": 9, "num_workers": 0,
                 "transforms": {"name": "resized_crop", "rand_augment": 5, "random_erasing": 0.25},
                 "mixup": 0.8, "cutmix": 1.0},
        "optim": {"lr": 1e-4},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "precision": "32"},
    }  # fmt: skip
    run = densevit.fit(from_mapping(config, "test"), run_dir=tmp_path / "run")
    assert "classification/top1" in run.metrics
    result = run.model.predict(str(photos / "val" / "red" / "0.png"))
    assert result.class_name == run.model.classes["classification"][int(result.class_scores.argmax())].name
    assert json.loads(result.to_json())["heads"]["classification"]["image_class"]["name"] == result.class_name
    assert float(result.class_scores.sum()) == pytest.approx(1, abs=1e-5)
    backbone = {"name": "resnet", "depth": 18, "weights": str(run.path)}
    detector = densevit.create_model(backbone, heads={"d": "one_stage"}, classes=["a"])
    assert_same(detector.backbone.state_dict(), run.model.backbone.state_dict())
