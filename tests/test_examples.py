"""The examples run as their first lines say."""

import importlib
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import densevit
from densevit.cli import main
from tests.data.coco_folder import noise
from tests.written_files import encoded

pytestmark = pytest.mark.integration


def example(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


@pytest.fixture
def serve() -> Iterator[Callable[[Any], int]]:
    """`serve(application)` is the port of a server of an application."""
    uvicorn = pytest.importorskip("uvicorn")
    ends: list[Callable[[], object]] = []

    def serve(application: Any) -> int:
        server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        ends.extend([lambda: setattr(server, "should_exit", True), thread.join])
        while not server.started:
            time.sleep(0.01)
        return int(server.servers[0].sockets[0].getsockname()[1])

    yield serve
    for end in ends:
        end()


def get(port: int, path: str, body: bytes | None = None, **request: Any) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, content and header of an answer."""
    address = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, **request)
    try:
        with urllib.request.urlopen(address, timeout=30) as reply:
            return reply.status, reply.read(), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def file_of(width: int, height: int) -> bytes:
    return encoded(noise(0, height, width))


def test_serving_answers_with_objects_maps_and_drawings(serve: Callable[[Any], int]):
    predictor = densevit.create_model(
        {"name": "resnet", "depth": 18},
        {"boxes": {"name": "detr", "transformer": {"width": 32}, "num_queries": 3}, "ground": "setr", "depth": "dpt"},
        {"boxes": ["cat"], "ground": ["road", "sky"]},
    )
    pytest.importorskip("fastapi")
    application = example("serving").application(predictor, ["https://page.org"])
    port, image = serve(application), file_of(60, 40)
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nfirst bytes")  # others are answered
        assert get(port, "/health")[:2] == (200, b"ok")
        assert get(port, "/health", method="HEAD")[:2] == (200, b"")
        status, content, header = get(port, "/?threshold=0", image, headers={"Origin": "https://page.org"})
        assert (status, header["Access-Control-Allow-Origin"]) == (200, "https://page.org")
        found = json.loads(content)
        assert Image.open(io.BytesIO(get(port, "/drawn", image)[1])).format == "JPEG"
        status, content, _ = get(port, "/", b"no image")
        assert status == 400 and b"is not an image" in content
        assert get(port, "/?threshold=2", image)[0] == 422
        assert get(port, "/drawn")[0] == 405 and b"<input" in get(port, "/")[1]
        assert "densevit_images_total 2" in get(port, "/metrics")[1].decode().splitlines()
    assert (found["height"], found["width"], len(found["boxes"])) == (40, 60, 3)
    expected = predictor.predict(image)
    assert [one["box"] for one in found["boxes"]] == expected.boxes.tolist()
    assert sum(found["ground"].values()) == pytest.approx(1)
    assert found["depth"]["inverse_depth"][1] == pytest.approx(expected.maps["inverse_depth"].max().item())


def test_serving_limits_requests_and_predicts_waiting_images_together(
    serve: Callable[[Any], int], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("fastapi")
    serving = example("serving")
    for name, limit in {"MAX_BYTES": 20_000, "MAX_PIXELS": 2400, "MAX_REQUESTS": 3, "MAX_SECONDS": 2}.items():
        monkeypatch.setattr(serving, name, limit)
    predictor = densevit.create_model({"name": "resnet", "depth": 18}, {"ground": "linear"}, ["road", "sky"])
    free, batches = threading.Event(), []
    iterate = predictor.iterate

    def slow(images: list[bytes], *options: Any) -> Any:
        free.wait(10)
        batches.append(len(images))
        return iterate(images, *options)

    monkeypatch.setattr(predictor, "iterate", slow)
    port, image = serve(serving.application(predictor)), file_of(60, 40)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(get, port, "/", image)
        time.sleep(0.3)
        waiting = [pool.submit(get, port, "/", image) for _ in range(2)]
        time.sleep(0.3)
        assert get(port, "/", image)[0] == 503  # MAX_REQUESTS
        free.set()
        assert [reply.result()[0] for reply in (first, *waiting)] == [200, 200, 200]
    assert batches == [1, 2]
    boundary = b"--b\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
    form = {"headers": {"Content-Type": "multipart/form-data; boundary=b"}}
    assert len(json.loads(get(port, "/", (boundary + image + b"\r\n") * 2 + b"--b--\r\n", **form)[1])) == 2
    assert get(port, "/", b"--b--\r\n", **form)[0] == 400
    assert [get(port, "/", file_of(w, 40))[0] for w in (61, 400)] == [413, 413]  # MAX_PIXELS, MAX_BYTES
    with socket.create_connection(("127.0.0.1", port)) as slow_client:
        slow_client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nfirst bytes")
        assert slow_client.recv(100).startswith(b"HTTP/1.1 400")  # MAX_SECONDS


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
