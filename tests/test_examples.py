"""The examples run as their first lines say."""

import importlib.util
import io
import json
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import densevit
from densevit.cli import main


def example(project: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, project / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_serving_answers_with_objects_maps_and_drawings(project: Path):
    predictor = densevit.create_model(
        {"name": "resnet", "depth": 18},
        {"boxes": {"name": "detr", "width": 32, "num_queries": 3}, "ground": "setr", "depth": "dpt"},
        {"boxes": ["cat"], "ground": ["road", "sky"]},
    )
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file, "PNG")
    server = example(project, "serving").server(predictor, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    slow = socket.create_connection(("127.0.0.1", server.server_port))
    slow.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nfirst bytes")  # the others are answered meanwhile
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=30) as reply:
            assert reply.read() == b"ok"
        with urllib.request.urlopen(f"{address}/?threshold=0", file.getvalue(), timeout=30) as reply:
            found = json.load(reply)
        with urllib.request.urlopen(f"{address}/drawn", file.getvalue(), timeout=30) as reply:
            assert Image.open(io.BytesIO(reply.read())).format == "JPEG"
        for path, body, status in (("", b"no image", 400), ("?threshold=x", file.getvalue(), 400), ("", b"", 413)):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(f"{address}/{path}", body, timeout=30)
            assert error.value.code == status
            if body == b"no image":
                assert b"is no image" in error.value.read()
    finally:
        slow.close()
        server.shutdown()
        server.server_close()
        thread.join()
    assert (found["height"], found["width"], len(found["boxes"])) == (40, 60, 3)
    expected = predictor.predict(file.getvalue())
    assert [one["box"] for one in found["boxes"]] == expected.boxes.tolist()
    assert sum(found["ground"].values()) == pytest.approx(1)
    assert found["depth"]["inverse_depth"][1] == pytest.approx(expected.maps["inverse_depth"].max().item())


def test_fine_tuning_trains_and_predicts(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert main(["scenes", "--out", str(tmp_path / "data"), "--count", "4", "--size", "64"]) == 0
    monkeypatch.chdir(tmp_path)
    options = ["data.image_size=64", "data.batch_size=2", "trainer={max_steps: 2}", "backbone.variant=nano"]
    run = example(project, "fine_tune").main(str(tmp_path / "data"), *options)
    assert "detection/AP" in run.metrics and (run.path / "first.jpg").is_file()


def test_fine_tuning_takes_twenty_lines(project: Path):
    code = (project / "examples" / "fine_tune.py").read_text().split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


def test_own_trainer_logs_metrics(project: Path, tmp_path: Path):
    data = {"image_size": 32, "batch_size": 2, "train_length": 4, "val_length": 2, "num_workers": 0}
    example(project, "own_trainer").main(2, str(tmp_path), **data)
    assert densevit.load(tmp_path / "model.safetensors").classes["ground"][0].name == "ball"
    header = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    assert "ground/mIoU" in header


def test_own_dataset_is_trained(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(project / "examples")
    options = ["data.length=20", "data.batch_size=2", "trainer={max_steps: 2}", "backbone.variant=nano"]
    run = example(project, "own_dataset").main(*options)
    assert 0 <= run.metrics["segmentation/mIoU"] <= 1
    assert [c.name for c in run.model.classes["segmentation"]] == ["disk", "ground"]
