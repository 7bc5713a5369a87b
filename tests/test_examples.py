"""The examples run as their first lines say."""

import importlib
import io
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import densevit
from densevit.cli import main
from densevit.model import DenseModel

pytestmark = pytest.mark.integration


def example(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


@pytest.fixture
def serve() -> Iterator[Callable[[densevit.DenseModel], int]]:
    """`serve(model)` is the port of the example's server."""
    ends: list[Callable[[], object]] = []

    def serve(model: DenseModel) -> int:
        server = example("serving").server(model, 0)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        ends.extend([server.shutdown, server.server_close, thread.join])
        return int(server.server_port)

    yield serve
    for end in ends:
        end()


def test_serving_answers_with_objects_maps_and_drawings(serve: Callable[[densevit.DenseModel], int]):
    predictor = densevit.create_model(
        {"name": "resnet", "depth": 18},
        {"boxes": {"name": "detr", "transformer": {"width": 32}, "num_queries": 3}, "ground": "setr", "depth": "dpt"},
        {"boxes": ["cat"], "ground": ["road", "sky"]},
    )
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file, "PNG")
    port = serve(predictor)
    address = f"http://127.0.0.1:{port}"
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nfirst bytes")  # others are answered meanwhile
        with urllib.request.urlopen(f"{address}/health", timeout=30) as reply:
            assert reply.read() == b"ok"
        with urllib.request.urlopen(f"{address}/?threshold=0", file.getvalue(), timeout=30) as reply:
            found = json.load(reply)
        with urllib.request.urlopen(f"{address}/drawn", file.getvalue(), timeout=30) as reply:
            assert Image.open(io.BytesIO(reply.read())).format == "JPEG"
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(address, b"no image", timeout=30)
        assert error.value.code == 400 and b"is not an image" in error.value.read()
        with urllib.request.urlopen(f"{address}/metrics", timeout=30) as reply:
            assert "densevit_images_total 2" in reply.read().decode().splitlines()
    assert (found["height"], found["width"], len(found["boxes"])) == (40, 60, 3)
    expected = predictor.predict(file.getvalue())
    assert [one["box"] for one in found["boxes"]] == expected.boxes.tolist()
    assert sum(found["ground"].values()) == pytest.approx(1)
    assert found["depth"]["inverse_depth"][1] == pytest.approx(expected.maps["inverse_depth"].max().item())


def metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_fine_tuning_trains_and_predicts(cwd: Path):
    assert main(["scenes", "--out", str(cwd / "data"), "--count", "4", "--size", "64"]) == 0
    options = ["data.image_size=64", "data.batch_size=2", "trainer={max_steps: 2}"]
    options.append("backbone={name: swin, variant: nano}")
    Image.new("RGB", (48, 32)).save("street.png")
    run = example("fine_tune").main(str(cwd / "data"), "street.png", *options)
    assert "detection/AP" in run.metrics and (run.path / "first.jpg").is_file()


def test_own_trainer_logs_metrics(tmp_path: Path):
    data = {"image_size": 32, "batch_size": 2, "train_length": 4, "val_length": 2, "num_workers": 0}
    example("own_trainer").main(2, str(tmp_path), **data)
    assert densevit.load(tmp_path / "model.safetensors").classes["ground"][0].name == "ball"
    assert "ground/mIoU" in next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[0].split(",")


@pytest.mark.usefixtures("cwd")
def test_own_dataset_is_trained(project: Path, on_path: Callable[[Path], None]):
    on_path(project / "examples")
    options = ["data.length=10", "data.batch_size=2", "trainer={max_steps: 2}", "backbone.variant=nano"]
    run = example("own_dataset").main(*options)
    assert 0 <= run.metrics["segmentation/mIoU"] <= 1
    assert [c.name for c in run.model.classes["segmentation"]] == ["disk", "ground"]
