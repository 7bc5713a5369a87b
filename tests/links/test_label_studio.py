"""Label Studio's predictions: by hand, read by its SDK, and as answers of the ML backend."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest

import densevit
from densevit.errors import ConfigError, DataError
from densevit_tools.label_studio import brush_code, controls_of, prediction, tasks
from densevit_tools.label_studio_backend import Backend, server
from tests.batch.test_prelabels import MODEL, folder
from tests.links.results import MASKS, OBJECTS, SIZE, predictor, result
from tests.recorded_warnings import recorded_warnings

BOXES = [([10, 25, 20, 50], "dog", 0.75), ([0, 0, 100, 100], "cat", 0.25)]  # x, y, width, height in per cent


def config(*tags: str, labels: str = '<Label value="cat"/><Label value="dog"/>') -> str:
    controls = "".join(f'<{tag} name="{tag}" toName="photo">{labels}</{tag}>' for tag in tags)
    return f'<View><Image name="photo" value="$url"/>{controls}</View>'


def boxes(entry: dict[str, Any]) -> list[Any]:
    return [
        ([r["value"][k] for k in ("x", "y", "width", "height")], *r["value"]["rectanglelabels"], r["score"])
        for r in entry["result"]
    ]


def test_objects_are_regions_of_the_first_control_that_takes_them() -> None:
    entry = prediction(result(**OBJECTS), controls_of(config("PolygonLabels", "RectangleLabels")), "1")
    assert boxes(entry) == BOXES and entry["score"] == 0.5 and entry["model_version"] == "1"
    assert entry["result"][0] | {"value": {}} == {
        **{"id": "1", "from_name": "RectangleLabels", "to_name": "photo", "type": "rectanglelabels", "score": 0.75},
        **{"original_width": 80, "original_height": 40, "image_rotation": 0, "value": {}},
    }
    masks = result(**OBJECTS, masks=MASKS)
    polygons = prediction(masks, controls_of(config("PolygonLabels", "RectangleLabels")), "1")["result"]
    assert [(r["type"], r["score"]) for r in polygons] == [("polygonlabels", s) for s in (0.75, 0.25, 0.25)]
    corners = np.array(polygons[0]["value"]["points"]) * (0.8, 0.4)
    np.testing.assert_allclose([corners.min(0), corners.max(0)], [[8, 10], [24, 30]], atol=0.4)
    only_cats = prediction(masks, controls_of(config("RectangleLabels", labels='<Label value="cat"/>')), "1")
    assert boxes(only_cats) == BOXES[1:], "classes of the interface"
    with pytest.raises(ConfigError, match="has no BrushLabels, PolygonLabels, RectangleLabels, Choices of an Image"):
        controls_of("<View><Text name='a' value='$a'/></View>")


def test_labels_match_classes_in_upper_and_lower_case_the_same_name_first() -> None:
    for labels, expected in (("Cat DOG", ["DOG", "Cat"]), ("dog Dog CAT", ["dog", "CAT"]), ("DOG Dog", ["DOG"])):
        tags = "".join(f'<Label value="{label}"/>' for label in labels.split())
        entry = prediction(result(**OBJECTS), controls_of(config("RectangleLabels", labels=tags)), "1")
        assert [region["value"]["rectanglelabels"] for region in entry["result"]] == [[label] for label in expected]


def test_setup_reports_labels_that_are_no_class_and_classes_without_a_label() -> None:
    backend = Backend(predictor())
    labels = '<Label value="Cat"/><Label value="bus"/><Label value="tree"/>'
    with recorded_warnings() as messages:
        backend.setup({"schema": config("RectangleLabels")})
        backend.setup({"schema": config("RectangleLabels", labels="")})  # takes any class
        backend.setup({"schema": config("RectangleLabels", labels=labels)})
    [message] = messages
    assert "no class: bus, tree. Classes without a label, which are not predicted: dog. Fix" in message


def test_maps_and_image_classes_are_regions() -> None:
    labels = np.zeros(SIZE, np.int64)
    labels[:, 40:] = 1
    entry = prediction(result(semantic=labels), controls_of(config("RectangleLabels")), "1")
    values = [r["value"] for r in entry["result"]]
    assert [(v["x"], *v["rectanglelabels"]) for v in values] == [(0, "cat"), (50, "dog")]
    assert "score" not in entry["result"][0]
    choices = config("Choices", labels='<Choice value="dog"/>')
    entry = prediction(result(image_class=np.array(1)), controls_of(choices), "1")
    assert [r["value"] for r in entry["result"]] == [{"choices": ["dog"]}]


def test_the_brush_code_of_three_pixels_is_that_of_label_studio() -> None:
    """Of its documentation's fields: 12 values, 8 bits, sizes 3, 4, 8, 16; runs of 4 and 8 values."""
    bits = f"{12:032b}0011100100011011111111000110000000010011111111111"
    expected = [int(f"{bits:0<88}"[i : i + 8], 2) for i in range(0, 88, 8)]
    assert brush_code(np.array([[False, True, True]])) == expected


def test_prelabels_are_tasks_with_scores(tmp_path: Path) -> None:
    entries = [{"image_id": "photos/1", "category_id": 7, "bbox": [6, 10, 12, 20], "score": 0.75}]
    densevit.prelabel(folder(tmp_path, entries), MODEL, tmp_path / "tasks.json", 0.5, format="label-studio")
    empty, task = json.loads((tmp_path / "tasks.json").read_text())
    assert empty["data"] == {"image": "/data/local-files/?d=0.jpg"} and empty["predictions"][0]["result"] == []
    [entry] = task["predictions"]
    assert (entry["model_version"], entry["score"]) == (MODEL.fingerprint(), 0.75)
    assert boxes(entry) == [([10, 25, 20, 50], "dog", 0.75)]


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[str]:
    """The address of a backend, with an image below its root."""
    cv2.imwrite(str(tmp_path / "a b.png"), np.zeros((*SIZE, 3), np.uint8))
    with server(Backend(predictor(), tmp_path, 0.2), port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def ask(address: str, **request: Any) -> Any:
    with urlopen(Request(address, json.dumps(request).encode() if request else None)) as answer:
        return json.loads(answer.read())


@pytest.mark.integration
def test_the_backend_answers_as_label_studio_expects(backend: str) -> None:
    assert ask(f"{backend}/health")["status"] == "UP"
    version = ask(f"{backend}/setup", schema=config("RectangleLabels"), hostname=backend, access_token="t")
    wanted = [{"data": {"url": url}} for url in ("/data/local-files/?d=a%20b.png", "a b.png")]
    answer = ask(f"{backend}/predict", tasks=wanted, label_config=config("RectangleLabels"))
    assert answer["model_version"] == version["model_version"]
    assert [boxes(entry) for entry in answer["results"]] == [BOXES, BOXES]


def test_the_backend_reads_files_below_its_root_only(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    for path in ("../secret.png", "none.png", "/data/local-files/?d=..%2Fsecret.png"):
        with pytest.raises(DataError, match="no such file below"):
            Backend(predictor(), tmp_path / "root").image(path)
    assert Backend(predictor()).image("data:image/png;base64,eA==") == b"x"


@pytest.mark.slow
def test_label_studios_sdk_reads_predictions(tmp_path: Path) -> None:
    interfaces = pytest.importorskip("label_studio_sdk.label_interface")
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.converter.brush import decode_rle

    masks = result(**OBJECTS, masks=MASKS)
    for tag in ("RectangleLabels", "PolygonLabels", "BrushLabels"):
        entry = prediction(masks, controls_of(config(tag)), "1")
        assert interfaces.LabelInterface(config(tag)).validate_prediction(entry, return_errors=True) == []
    for region, mask in zip(entry["result"], MASKS.numpy(), strict=True):
        rgba = decode_rle(region["value"]["rle"]).reshape(*SIZE, 4)
        np.testing.assert_array_equal(rgba, 255 * np.repeat(mask[..., None], 4, 2))
    entry = prediction(result(**OBJECTS), controls_of(config("RectangleLabels")), "1")
    task = {"id": 1, "data": {"url": "a.png"}, "annotations": [{"id": 1, "result": entry["result"]}]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    converter = Converter(config("RectangleLabels"), str(tmp_path), download_resources=False)
    converter.convert_to_coco(str(tmp_path / "export.json"), str(tmp_path / "coco"), is_dir=False)
    document = json.loads((tmp_path / "coco" / "result.json").read_text())
    assert [a["bbox"] for a in document["annotations"]] == [[8, 10, 16, 20], [0, 0, 80, 40]]


def test_tasks_have_a_region_per_polygon() -> None:
    outline = [8.0, 10, 24, 10, 24, 30]
    entry = {"image_id": 1, "category_id": 3, "bbox": [8, 10, 16, 20], "segmentation": [outline, outline], "score": 0.5}
    images = [{"id": 1, "file_name": "ä/0.jpg", "width": 80, "height": 40}]
    [task] = tasks({"images": images, "annotations": [entry], "categories": [{"id": 3, "name": "cat"}]}, "1")
    points = [[10, 25], [30, 25], [30, 75]]
    assert [r["value"]["points"] for r in task["predictions"][0]["result"]] == [points, points]
    assert task["data"]["image"].endswith("?d=%C3%A4/0.jpg")
