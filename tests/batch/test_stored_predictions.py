"""Predictions of a folder are read as the model returned them, and evaluated as `densevit evaluate` does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import densevit
from densevit.cli import main
from densevit.interfaces import LABEL_DIVISOR, Class, Predictions
from densevit.model import DenseModel
from densevit.targets.types import TargetTypes
from densevit_batch import joining
from densevit_batch.image_file import ImageFile
from densevit_batch.stored_predictions import StoredPredictions
from tests.batch.written_predictions import write_predictions

CLASSES = tuple(Class(name, 3 + n, (n, 9, 9), thing=n < 4) for n, name in enumerate(("a", "[b]", "c", "d", "e", "f")))
HEADS = {
    "people": ("boxes", "labels", "scores", "keypoints"),
    "things": ("boxes", "labels", "scores", "masks", "panoptic"),
    "maps": ("semantic", "depth", "normals"),
    "kind": ("image_class", "image_score", "class_scores"),
}
SIZES = {0: (11, 24), 1: (17, 13), 2: (9, 30), 3: (12, 12)}  # the second image has no object


class Fake:
    """What the reader needs of a model."""

    def __init__(self, heads: tuple[str, ...]) -> None:
        self.classes, self.target_types = dict.fromkeys(heads, CLASSES), dict.fromkeys(heads)


def random_predictions(head: str, image: int) -> Predictions:
    """Values in the form in which models return them."""
    rng, types, found = np.random.default_rng(image), TargetTypes(), {}
    for key in HEADS[head]:
        count = 0 if image == 1 else 3
        value = rng.random(count, np.float32)
        if key != "scores":
            value = types[key].random(SIZES[image], count, len(CLASSES), rng)
        if key == "panoptic":  # numbers of instances begin at 0 for each class, in the order of ids
            value = np.repeat([[-1, 0, 1, LABEL_DIVISOR]], SIZES[image][0], 0).repeat(SIZES[image][1] // 4 + 1, 1)
            value = value[:, : SIZES[image][1]].astype(np.int32)
        if key == "class_scores":
            value[np.argsort(value)[0]] = 0  # files have the five highest of six
        found[key] = torch.from_numpy(np.asarray(value))
    return found


def write(folder: Path, heads: tuple[str, ...], parquet: bool) -> None:
    images = []
    for n in range(4):
        file = ImageFile(f"photos/{n}.jpg", f"{n:04}/x.{n}", f"id {n}, \"'" if n or parquet else 0, index=n)
        images.append((file, SIZES[n], {head: random_predictions(head, n) for head in heads}))
    write_predictions(folder, dict.fromkeys(heads, CLASSES), images, "parquet" if parquet else "json")


def check_equal(found: Predictions, expected: Predictions) -> None:
    assert found.keys() >= expected.keys()
    assert not any(len(found[key]) for key in found.keys() - expected.keys())
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("parquet", [False, True])
def test_predictions_are_read_as_they_were_written(parquet, tmp_path, monkeypatch) -> None:
    heads = tuple(HEADS)
    for name in ("MAX_IMAGES", "MAX_OBJECTS"):
        monkeypatch.setattr(joining, name, 3)
    write(tmp_path, heads, parquet)
    if parquet:
        names = [CLASSES[random_predictions("kind", n)["image_class"]].name for n in range(4)]
        assert pandas.read_parquet(tmp_path / "images.parquet")["kind/image_class"].tolist() == names
        assert not (tmp_path / "kind" / "objects.parquet").exists()
    stored = StoredPredictions(tmp_path, Fake(heads))
    assert [image["file_name"] for image in stored.images] == [f"photos/{n}.jpg" for n in range(4)]
    for n in (2, 0, 3, 1):
        found = stored.read(stored.images[n])
        assert [*found] == [*heads]
        for head in heads:
            check_equal(found[head], random_predictions(head, n))


# ---- the command ----

DETR = {
    "name": "box_query_detr", "num_queries": 8,
    "transformer": {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 32},
}  # fmt: skip
MASKS = {
    "num_queries": 6, "transformer": {"width": 32, "num_heads": 2, "decoder_layers": 1, "feedforward": 32},
    "pixel_decoder": {"layers": 1, "feedforward": 32, "fusion_blocks": 1}, "num_points": 32,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "panoptic": {"panoptic": {"name": "mask2former", **MASKS, "threshold": 0.0}},
    "several": {
        "boxes": DETR,
        "surfaces": {"name": "setr", "decoder": "mla", "width": 16, "branch_width": 8, "auxiliary": []},
        "depth": {"name": "dpt", "output": "bins", "max_depth": 60.0, "width": 8},
    },
}
DATA = ["data.image_size=[64,96]", "data.batch_size=8", "data.num_workers=0"]
RUNTIME = ["trainer.accelerator=cpu", "trainer.precision=32"]


def random_model(heads: Mapping[str, Any], classes: Mapping[str, Any], path: Path) -> None:
    predictor = densevit.create_model({"name": "swin", "variant": "nano", "window_size": 4}, heads, classes)
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    densevit.save(predictor, path)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    command = ["scenes", "--out", str(folder / "set"), "--count", "3", "--size", "64x96", "--split", "val"]
    assert main(command) == 0
    return folder / "set"


def evaluated(command: str, source: str, out: str, *options: str) -> dict[str, Any]:
    assert main([*command.split(), source, *DATA, *RUNTIME, *options, "--out", out]) == 0
    metrics: dict[str, Any] = json.loads(Path(out, "metrics.json").read_text())
    return metrics


@pytest.mark.integration
@pytest.mark.parametrize("name", MODELS)
def test_files_have_the_scores_of_their_model(name: str, scenes: Path, cwd: Path, monkeypatch) -> None:
    """Also all other files of an evaluation."""
    classes = densevit.create_dataset("scenes", "val", val_length=1, panoptic=True).classes
    tasks = {"surfaces": "segmentation", "panoptic": "panoptic"}
    of_heads = {head: [*classes[tasks.get(head, "detection")]] for head in MODELS[name] if head != "depth"}
    random_model(MODELS[name], of_heads, Path("model.safetensors"))
    images = next(path.parent for path in scenes.rglob("*.png"))
    forms = ("json", "parquet") if name != "panoptic" else ("json",)
    for form in forms:
        assert main(["predict", "model.safetensors", str(images), "--out", form, "--format", form]) == 0
    data = ["data.name=scenes", "data.val_length=3", *(["data.panoptic=true"] if name == "panoptic" else [])]
    expected = evaluated("evaluate", "model.safetensors", "measured", *data)
    monkeypatch.setattr(DenseModel, "forward", None)  # the model is not run
    for form in forms:
        found = evaluated("predictions evaluate", form, f"{form}-measured", *data)
        assert found.keys() == expected.keys()
        for metric, value in expected.items():
            assert found[metric] == (value if value is None else pytest.approx(value, abs=1e-6)), metric
        for path in (path for path in Path("measured").rglob("*") if path.suffix in (".json", ".png", ".npy", ".csv")):
            other = Path(f"{form}-measured", path.relative_to("measured"))
            if path.name != "evaluation.json":
                assert other.read_bytes() == path.read_bytes(), other
        assert len([*Path(f"{form}-measured/predictions").glob("*.jpg")]) == 3 * len(MODELS[name])
