"""Predictions in the user's units: category ids of the json that lists the images, depth in the unit of the data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.config import DataSection
from densevit.targets.pixel_maps import Depth
from densevit_batch import batch_predictor
from densevit_batch.prediction_folder import saved_classes
from tests.cli.stand_in import StandIn, read
from tests.model import small_models


def coco_json(*categories: tuple[int, str], **others: Any) -> None:
    images = [{"id": 5, "file_name": "1.jpg", "width": 50, "height": 40}]
    rows = [{"id": number, "name": name} for number, name in categories]
    Path("a/list.json").write_text(json.dumps({"images": images, "annotations": [], "categories": rows} | others))


@pytest.mark.parametrize(
    ("categories", "dog", "cat"),
    [
        ([(1, "Dog"), (2, "cat")], 1, 2),
        ([(4, "cat"), (9, "bird")], 10, 4),  # no dog: the id after the largest one, in no class of the json
        ([], 18, 17),  # the model's
    ],
)
def test_category_ids_are_those_of_the_json_by_name(model: StandIn, photos: Any, run: Any, categories, dog, cat):
    coco_json(*categories)
    said = run("predict", "run", "a/list.json", "--out", "found", "--min-score", "0.2")
    assert ("category ids are the json's, by name" in said) == bool(categories)
    assert ("; it has no dog" in said) == (dog == 10)
    entries = read("found/predictions.json")
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(5, dog), (5, cat)]
    assert "a/1.jpg,5,dog," in Path("found/predictions.csv").read_text()
    listed = [{"id": cat, "name": "cat"}, {"id": dog, "name": "dog"}]
    assert read("found/predict.json")["categories"] == {"detection": listed}
    classes = saved_classes(Path("found"), model.classes)["detection"]
    assert [(c.name, c.file_id, c.color) for c in classes] == [
        (c.name, number, c.color) for c, number in zip(model.classes["detection"], (cat, dog), strict=True)
    ]


def metres(height: int, width: int) -> torch.Tensor:
    return torch.linspace(0.5, 9.5, height * width).reshape(height, width)


class Metric(small_models.Depth):
    def predict(self, outputs, targets):
        return [{"depth": metres(*map(int, target["original_size"]))} for target in targets]


@pytest.mark.parametrize(
    ("data", "unit"),
    [
        ({"name": "depth", "scale": 0.001}, 0.001),
        ({"name": "depth", "scale": 0.0002, "depth_type": "depth"}, 0.0002),
        ({"name": "depth", "preset": "nyu"}, 0.001),
        ({"name": "depth"}, 1 / 256),
        ({"name": "depth", "scale": 0.5, "depth_type": "disparity"}, 1 / 256),
        ({"name": "my:Data", "scale": 2.0}, 1 / 256),
    ],
)
def test_depth_files_have_the_unit_of_the_training_data(data, unit, photos, load_as, run, monkeypatch):
    predictor = load_as(small_models.model_of(small_models.Stem(), Metric))
    predictor.training_data = DataSection(**data)
    monkeypatch.setattr(batch_predictor, "_loaded", lambda *_: predictor)
    said = run("predict", "run", "a/1.jpg", "--out", "found")
    expected = np.load("found/depth/1.npy")
    assert f"found/depth: PNG in units of {unit:g} m" in said
    stored = np.asarray(Image.open("found/depth/1.png")).astype(float) * unit
    np.testing.assert_allclose(stored, expected, atol=0.51 * unit)
    columns = densevit.BatchPredictor("run")({"path": ["a/1.jpg"]})
    assert columns["depth.png"] == [Path("found/depth/1.png").read_bytes()]


def test_depth_beyond_the_range_of_a_unit_is_npy_only():
    with pytest.warns(UserWarning, match=r"beyond 13\.107 m"):
        assert [*Depth(scale=0.0002).encode(np.full((2, 2), 13.2, np.float32), ())] == [".npy"]
