"""`densevit predict` with a fake model, which predicts one box of the image's size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.stand_in import StandIn, read
from tests.inference.test_array_inputs import address  # noqa: F401  # a fixture


def has_color(image: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(image.astype(int) - color).sum(axis=2) < 60).any())


def test_images_are_drawn_and_predictions_written_for_coco(model, photos, run):
    assert "found: 4 of 4 images" in run("predict", "RUN", "a", "b", "--out", "found")
    drawn = sorted(path.name for path in Path("found/drawn").iterdir())
    assert drawn == ["000139.jpg", "a-1.jpg", "b-1.jpg", "cat.jpg"]
    image = np.array(Image.open("found/drawn/a-1.jpg"))
    assert has_color(image, (20, 30, 240)) and not has_color(image, (250, 10, 20)), "the cat is below the threshold"

    images, results = read("found/images.json"), read("found/predictions.json")
    assert [image["id"] for image in images] == ["a/1.jpg", 139, "b/1.jpg", "cat.png"]
    assert images[1] == {"id": 139, "file_name": "b/000139.jpg", "width": 52, "height": 40, "name": "000139"}
    assert len(results) == 8
    assert results[2] == {"image_id": 139, "category_id": 18, "bbox": [1, 2, 51, 38], "score": 0.75}
    assert results[3]["bbox"][2] == float(np.float32(1 / 3))  # nothing is rounded or omitted


def test_urls_are_downloaded(model: StandIn, photos: Path, address: str, run):  # noqa: F811
    urls = [f"{address}/{path}" for path in ("image.png", "gone.png")]
    said = run("predict", "RUN", "a", *urls, "--out", "found", code=1)
    assert "2 of 3 images; 1 could not be read" in said and f"{urls[1]}: the server answers 404" in said
    entry = {"id": "image.png", "file_name": urls[0], "width": 30, "height": 20, "name": "image"}
    assert read("found/images.json")[1] == entry


def test_maps_have_the_image_size(photos: Path, monkeypatch: pytest.MonkeyPatch, run):
    class Dense(StandIn):
        """Predicts a dog in the image's first row and cats below, all 1.5 m away."""

        def see(self, height: int, width: int) -> Any:
            semantic = torch.zeros(height, width, dtype=torch.uint8)
            semantic[0] = 1
            return {"semantic": semantic, "depth": torch.full((height, width), 1.5)}

    monkeypatch.setattr("densevit.inference.model_loading.load", lambda run, device, trust, runtime: Dense(("all",)))
    run("predict", "RUN", "b", "--out", "found")
    expected = {"drawn": [".jpg"], "semantic": [".png"], "depth": [".png", ".npy"]}
    for folder, endings in expected.items():
        names = {f"{name}{ending}" for name in ("000139", "1", "cat") for ending in endings}
        assert {path.name for path in Path("found", folder).iterdir()} == names
    labels = Image.open("found/semantic/cat.png")
    assert labels.mode == "P" and labels.size == Image.open("b/cat.png").size == (53, 40)
    assert (np.array(labels)[0] == 18).all() and (np.array(labels)[1:] == 17).all()
    assert (np.array(Image.open("found/depth/cat.png")) == 384).all()
    assert len(read("found/images.json")) == 3 and not Path("found/predictions.json").exists()
