"""The examples run as their first lines say."""

import importlib
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.channels import RGB
from densevit.cli import main
from densevit.inference.iterating import Predicted

pytestmark = pytest.mark.integration

Serve = Callable[[Any], tuple[ModuleType, int]]


def example(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(model)` is the module of the example and the port of its server."""
    ends: list[Callable[[], object]] = []

    def serve(model: Any) -> tuple[ModuleType, int]:
        module = example("serving")
        server = module.server(model, 0)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        release = getattr(model, "go_on", threading.Event()).set
        ends.extend([release, server.shutdown, server.server_close, thread.join])
        return module, server.server_port

    yield serve
    for end in ends:
        end()


def test_serving_answers_with_objects_maps_and_drawings(serve: Serve):
    predictor = densevit.create_model(
        {"name": "resnet", "depth": 18},
        {"boxes": {"name": "detr", "transformer": {"width": 32}, "num_queries": 3}, "ground": "setr", "depth": "dpt"},
        {"boxes": ["cat"], "ground": ["road", "sky"]},
    )
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file, "PNG")
    _, port = serve(predictor)
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
    assert (found["height"], found["width"], len(found["boxes"])) == (40, 60, 3)
    expected = predictor.predict(file.getvalue())
    assert [one["box"] for one in found["boxes"]] == expected.boxes.tolist()
    assert sum(found["ground"].values()) == pytest.approx(1)
    assert found["depth"]["inverse_depth"][1] == pytest.approx(expected.maps["inverse_depth"].max().item())


def reply_to(port: int, head: str, body: bytes = b"", path: str = "/") -> tuple[int, bytes]:
    """Status and content of the answer to a request as written."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


def image_file(color: tuple[int, int, int], size: tuple[int, int] = (24, 16)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


class Colors:
    """A model whose result is the image's size and its first pixel, and that remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.default_thresholds: dict[str, float] = {}
        self.model = SimpleNamespace(channels=RGB)
        self.go_on = threading.Event()

    def iterate(self, images: list[bytes], threshold: Any, batch_size: int) -> Iterator[Predicted]:
        self.batches.append(len(images))
        self.go_on.wait(20)
        for content in images:
            image = Image.open(io.BytesIO(content))
            if image.getpixel((0, 0)) == (1, 2, 3):
                yield Predicted(content, error=densevit.DataError("damaged"))
                continue
            if image.getpixel((0, 0)) == (3, 2, 1):
                raise Exception("no memory")  # of any kind, as runtimes raise
            level = torch.full((image.height, image.width), float(image.getpixel((0, 0))[0]))
            result = densevit.Result(np.asarray(image), (image.height, image.width), {"d": {"depth": level}}, {})
            yield Predicted(content, np.asarray(image), result)


def metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_serving_predicts_waiting_images_as_a_batch(serve: Serve) -> None:
    """An image that cannot be read does not reach the other requests of its batch."""
    _, port = serve(model := Colors())
    answers: dict[int, tuple[int, bytes]] = {}

    def ask(number: int, color: tuple[int, int, int]) -> None:
        body = image_file(color)
        answers[number] = reply_to(port, f"Content-Length: {len(body)}\r\n", body)

    threads = [threading.Thread(target=ask, args=(n, (n, 0, 0))) for n in range(4)]
    threads += [threading.Thread(target=ask, args=(4, (1, 2, 3)))]
    threads[0].start()
    while not model.batches:
        time.sleep(0.01)
    for thread in threads[1:]:
        thread.start()
    time.sleep(1)
    model.go_on.set()
    for thread in threads:
        thread.join(20)
    assert model.batches == [1, 4]
    assert [json.loads(answers[n][1])["d"]["depth"] for n in range(4)] == [[float(n)] * 2 for n in range(4)]
    assert answers[4] == (400, b"damaged")
    ask(5, (3, 2, 1))
    assert answers[5] == (500, b"no memory")
    found = metrics(port)
    assert found['densevit_requests_total{status="200"}'] == 4 and found['densevit_requests_total{status="500"}'] == 1
    assert (found["densevit_images_total"], found["densevit_batches_total"]) == (4, 2)
    assert found["densevit_seconds_total"] > 0


def test_fine_tuning_trains_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert main(["scenes", "--out", str(tmp_path / "data"), "--count", "4", "--size", "64"]) == 0
    monkeypatch.chdir(tmp_path)
    options = ["data.image_size=64", "data.batch_size=2", "trainer={max_steps: 2}"]
    options.append("backbone={name: swin, variant: nano}")
    Image.new("RGB", (48, 32)).save("street.png")
    run = example("fine_tune").main(str(tmp_path / "data"), "street.png", *options)
    assert "detection/AP" in run.metrics and (run.path / "first.jpg").is_file()


def test_own_trainer_logs_metrics(tmp_path: Path):
    data = {"image_size": 32, "batch_size": 2, "train_length": 4, "val_length": 2, "num_workers": 0}
    example("own_trainer").main(2, str(tmp_path), **data)
    assert densevit.load(tmp_path / "model.safetensors").classes["ground"][0].name == "ball"
    header = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    assert "ground/mIoU" in header


def test_own_dataset_is_trained(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(project / "examples")
    options = ["data.length=10", "data.batch_size=2", "trainer={max_steps: 2}", "backbone.variant=nano"]
    run = example("own_dataset").main(*options)
    assert 0 <= run.metrics["segmentation/mIoU"] <= 1
    assert [c.name for c in run.model.classes["segmentation"]] == ["disk", "ground"]
