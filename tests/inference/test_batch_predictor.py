"""`BatchPredictor`, as data engines call it."""

import io
import json
import multiprocessing
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

import densevit
from densevit import BatchPredictor
from densevit.data.io.prediction_columns import image_columns, object_columns
from densevit.exporting.file_comparison import example_images
from densevit.inference import batch_predictor
from densevit.targets.types import TargetTypes
from tests.exporting.small_models import CHANNELS, NAIVE, channel_predictor
from tests.model.small_models import CLASSES

DETR = {"name": "detr", "transformer": {"width": 32, "encoder_layers": 1, "decoder_layers": 1}, "num_queries": 3}
BOX = ("x", "y", "width", "height")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A detector of cats and dogs; its scores have no threshold."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    predictor = densevit.create_model({"name": "vit", "variant": "nano"}, {"things": DETR}, {"things": CLASSES})
    densevit.save(predictor, path)
    return str(path)


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (40 + 8 * number, 60, 3), dtype=np.uint8)


def as_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def check(rows: dict[str, Any], expected: list[densevit.Result]) -> None:
    """The rows are these results."""
    assert rows["error"] == [""] * len(expected)
    assert list(zip(rows["image_height"], rows["image_width"], strict=True)) == [one.size for one in expected]
    for n, result in enumerate(expected):
        assert rows["class"][n].tolist() == result.names
        np.testing.assert_allclose(rows["score"][n], result.scores, atol=1e-6)  # batches are composed differently
        assert rows["category_id"][n].tolist() == [CLASSES[label].file_id for label in result.labels]
        x, y, width, height = (rows[name][n] for name in BOX)
        np.testing.assert_allclose(np.stack([x, y, x + width, y + height], 1), result.boxes, atol=1e-3)


@pytest.mark.parametrize("threshold", [None, 0.34])
def test_rows_are_the_results_of_predict(model: str, threshold: float | None, tmp_path: Path) -> None:
    """Of paths, bytes and arrays, in lists and columns."""
    images = [pixels(n) for n in range(3)]
    paths = [str(tmp_path / f"{n}.png") for n in range(3)]
    for path, image in zip(paths, images, strict=True):
        Path(path).write_bytes(as_png(image))
    predictor = BatchPredictor(model, "cpu", batch_size=2, threshold=threshold)
    expected = densevit.load(model).predict(images, threshold, 2)
    files = [Path(path).read_bytes() for path in paths]
    for batch, others in (
        (images, {}),
        (np.stack([images[0], images[0]]), {}),
        (files, {}),
        (paths, {"image": paths}),
        ({"bytes": np.array(files, object), "id": np.arange(3)}, {"id": [0, 1, 2]}),
        ({"path": paths, "id": [4, 5, 6]}, {"path": paths, "id": [4, 5, 6]}),
        ({"path": paths, "image": images}, {"path": paths}),
    ):
        rows = predictor(batch)
        check(rows, [expected[0]] * 2 if isinstance(batch, np.ndarray) else expected)
        new = ("image_height", "image_width", "error", "category_id", "class", "score", *BOX)
        assert {*rows} == {*others, *new}
        assert {name: rows[name] for name in others} == others


def test_an_image_that_cannot_be_read_is_a_row_with_the_reason(model: str) -> None:
    predictor = BatchPredictor(model, "cpu")
    readable = predictor({"bytes": [as_png(pixels(0))], "name": ["a"]})
    rows = predictor({"bytes": [b"no image", as_png(pixels(0))], "name": ["b", "a"]})
    assert rows["error"][0].startswith("image 0 is not an image") and rows["error"][1] == ""
    assert [rows["image_height"], rows["image_width"], rows["name"]] == [[0, 40], [0, 60], ["b", "a"]]
    for name in ("score", "class", "category_id", *BOX):
        assert len(rows[name][0]) == 0 and rows[name][1].tolist() == readable[name][0].tolist()
    alone = predictor([b"no image", Path("none.png")])
    assert {*alone} == {*readable} - {"name"}, "the same columns"
    assert {name: alone[name][0].dtype.kind for name in ("score", "x", "class", "category_id")} == {
        "score": "f",
        "x": "f",
        "class": "U",
        "category_id": "i",
    }
    assert "none.png" in alone["error"][1]


def test_several_heads_and_maps_have_their_names(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    naive, dpt = {"name": "setr", "decoder": "naive", "width": 8}, {"name": "dpt", "width": 8}
    heads = {"boxes": DETR, "ground": naive, "far": dpt, "kind": "classifier"}
    classes = {"boxes": ["cat"], "ground": ["road", "sky"], "kind": ["day", "night"]}
    densevit.save(densevit.create_model({"name": "vit", "variant": "nano"}, heads, classes), path)
    image = pixels(0)
    rows, expected = BatchPredictor(path, "cpu")([image, b"none"]), densevit.load(path).predict(image)
    assert rows["boxes/score"][0].tolist() == expected["boxes"].scores.tolist()
    labels = np.asarray(Image.open(io.BytesIO(rows["ground/semantic.png"][0])))
    file_ids = np.array([one.file_id for one in expected.classes["ground"]])
    np.testing.assert_array_equal(labels, file_ids[expected["ground"].semantic])
    depth = np.load(io.BytesIO(rows["far/inverse_depth.npy"][0]))
    np.testing.assert_array_equal(depth, expected["far"].inverse_depth)
    assert rows["kind/image_class"] == [expected["kind"].class_name, ""]
    assert (rows["ground/semantic.png"][1], rows["far/inverse_depth.npy"][1]) == (b"", b"")


def test_masks_are_run_lengths_and_keypoints_lists() -> None:
    mask = np.zeros((2, 5, 7), bool)
    mask[0, 1:3, 2:6] = True
    found = {"masks": mask, "labels": torch.tensor([1, 0]), "scores": torch.tensor([0.5, 0.25])}
    columns = object_columns(found, CLASSES, TargetTypes(None))
    codes = [{"size": [5, 7], "counts": text.encode()} for text in columns["segmentation"].tolist()]
    np.testing.assert_array_equal(rle.decode(codes).transpose(2, 0, 1), mask)
    assert columns["category_id"].tolist() == [18, 17] and columns["class"].tolist() == ["dog", "cat"]
    scores = image_columns({"class_scores": np.array([0.25, 0.75])}, CLASSES, TargetTypes(None))
    assert {key: json.loads(value) for key, value in scores.items()} == {"class_scores": {"dog": 0.75, "cat": 0.25}}


def scores_and_engines(predictor: bytes, image: np.ndarray) -> tuple[np.ndarray, set[str]]:
    """The scores of an image, and the engines and formats that are imported then."""
    scores = pickle.loads(predictor)([image])["score"][0]
    return scores, {"dask", "pandas", "pyarrow", "pyspark", "ray"} & {*sys.modules}


def test_a_pickled_one_predicts_the_same_in_another_process_without_an_engine(model: str) -> None:
    predictor = BatchPredictor(model, "cpu", threshold={"things": 0.1})
    expected = predictor([pixels(1)])["score"][0]
    pickled = pickle.dumps(predictor)
    assert len(pickled) < 1000 and pickle.loads(pickled) == predictor
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        scores, engines = pool.apply(scores_and_engines, (pickled, pixels(1)))
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert engines == set()


def test_a_process_loads_the_model_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[str] = []
    batch_predictor._loaded.cache_clear()
    load = batch_predictor.load
    monkeypatch.setattr(batch_predictor, "load", lambda source, *given: sources.append(source) or load(source, *given))
    predictor = BatchPredictor(model, "cpu")
    assert not sources, "when it is built"
    for one in (predictor, predictor, pickle.loads(pickle.dumps(predictor)), BatchPredictor(model, "cpu", 2)):
        one([pixels(0)])
    assert sources == [model]


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({"batch_size": 0}, [], "batch_size is 0; at least 1 is expected"),
        ({"threshold": 2.0}, [], "threshold is 2.0; a score from 0 to 1 is expected"),
        ({"threshold": {"a": -1.0}}, [], "threshold is -1.0; a score"),
        ({}, {"photo": []}, "the batch has the columns photo; expected image or bytes or path. Fix: name the column"),
        ({"column": "photo"}, {"image": [], "id": []}, "the columns image, id; expected photo"),
    ],
)
def test_wrong_options_and_batches_are_errors_before_the_model_is_loaded(options, batch, message) -> None:
    with pytest.raises(densevit.DensevitError, match=message):
        BatchPredictor("none", **options)(batch)


@pytest.mark.parametrize("name", CHANNELS)
def test_images_of_other_channels(name: str, tmp_path: Path) -> None:
    """Also a batch without any readable image, whose columns have the types of others."""
    predictor = channel_predictor(name, {"maps": NAIVE})
    densevit.save(predictor, tmp_path / "model.safetensors")
    batches = BatchPredictor(str(tmp_path / "model.safetensors"), "cpu", trust=True)
    image = np.ascontiguousarray(example_images((40, 60), 1, 0, CHANNELS[name])[0].transpose(1, 2, 0))
    rows = batches({"image": [image, pixels(0), b"no image"]})
    assert [bool(error) for error in rows["error"]] == [False, True, True]
    assert "3 channels; expected" in rows["error"][1]
    found = np.asarray(Image.open(io.BytesIO(rows["semantic.png"][0])))
    assert (found == predictor.predict(image)["semantic"].numpy()).mean() > 0.999
    assert batches({"bytes": [b"no image"]})["semantic.png"] == [b""]
