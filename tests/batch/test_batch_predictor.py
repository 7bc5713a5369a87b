"""`BatchPredictor`, as data engines call it."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import densevit
from densevit import BatchPredictor
from tests.model.small_models import CLASSES
from tests.written_files import encoded

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


def test_rows_are_the_results_of_predict(model: str, tmp_path: Path) -> None:
    """Of paths, bytes and arrays, in lists and columns."""
    images = [pixels(n) for n in range(3)]
    paths = [str(tmp_path / f"{n}.png") for n in range(3)]
    for path, image in zip(paths, images, strict=True):
        Path(path).write_bytes(encoded(image))
    predictor = BatchPredictor(model, "cpu", batch_size=2, threshold=0.34)
    expected = densevit.load(model).predict(images, 0.34, 2)
    files = [Path(path).read_bytes() for path in paths]
    for batch, others in (
        (images, {}),
        (files, {}),
        (paths, {"image": paths}),
        ({"bytes": np.array(files, object), "id": np.arange(3)}, {"id": [0, 1, 2]}),
    ):
        rows = predictor(batch)
        check(rows, expected)
        new = ("image_height", "image_width", "error", "category_id", "class", "score", *BOX)
        assert ({*rows}, {name: rows[name] for name in others}) == ({*others, *new}, others)


def test_an_image_that_cannot_be_read_is_a_row_with_the_reason(model: str) -> None:
    predictor = BatchPredictor(model, "cpu")
    readable = predictor({"bytes": [encoded(pixels(0))], "name": ["a"]})
    rows = predictor({"bytes": [b"no image", encoded(pixels(0))], "name": ["b", "a"]})
    assert rows["error"][0].startswith("image 0 is not an image") and rows["error"][1] == ""
    assert [rows["image_height"], rows["image_width"], rows["name"]] == [[0, 40], [0, 60], ["b", "a"]]
    for name in ("score", "class", "category_id", *BOX):
        assert len(rows[name][0]) == 0 and rows[name][1].tolist() == readable[name][0].tolist()
    alone = predictor([b"no image"])
    kinds = {"score": "f", "x": "f", "class": "U", "category_id": "i"}
    assert {name: alone[name][0].dtype.kind for name in kinds} == kinds


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


def test_a_pickled_one_predicts_the_same(model: str) -> None:
    predictor = BatchPredictor(model, "cpu", threshold={"things": 0.1})
    pickled = pickle.dumps(predictor)
    again = pickle.loads(pickled)
    assert len(pickled) < 1000 and again == predictor
    np.testing.assert_allclose(again([pixels(1)])["score"][0], predictor([pixels(1)])["score"][0], atol=1e-6)


def test_a_batch_without_images_is_an_error_before_the_model_is_loaded() -> None:
    with pytest.raises(densevit.DensevitError, match="the columns photo; expected image or bytes or path. Fix: name"):
        BatchPredictor("none")({"photo": []})


def test_a_model_in_place_of_its_path_is_an_error(model: str) -> None:
    with pytest.raises(densevit.DensevitError, match=r"model is a DenseModel; a path .* Fix: densevit\.save\("):
        BatchPredictor(densevit.load(model))
