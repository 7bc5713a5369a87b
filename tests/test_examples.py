"""The examples run as their first lines say."""

import importlib.util
import io
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import densevit


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
    try:
        with urllib.request.urlopen(f"{address}/?threshold=0", file.getvalue(), timeout=30) as reply:
            found = json.load(reply)
        with urllib.request.urlopen(f"{address}/drawn", file.getvalue(), timeout=30) as reply:
            assert Image.open(io.BytesIO(reply.read())).format == "JPEG"
        for path, body, status in (("", b"no image", 400), ("?threshold=x", file.getvalue(), 400), ("", b"", 413)):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(f"{address}/{path}", body, timeout=30)
            assert error.value.code == status
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (found["height"], found["width"], len(found["boxes"])) == (40, 60, 3)
    expected = predictor.predict(file.getvalue())
    assert [one["box"] for one in found["boxes"]] == expected.boxes.tolist()
    assert sum(found["ground"].values()) == pytest.approx(1)
    assert found["depth"]["inverse_depth"][1] == pytest.approx(expected.maps["inverse_depth"].max().item())


def test_fine_tuning_writes_a_model_that_loads(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "mine.safetensors")
    options = ["data.image_size=32", "data.batch_size=2", "data.num_workers=0"]
    example(project, "fine_tune").main(["--steps", "2", "--device", "cpu", "--out", out, *options])
    message = capsys.readouterr().out
    assert "step 2: segmentation/" in message and "Result(" in message
    predictor = densevit.load(out)
    assert predictor.config is not None and predictor.config.data.image_size == 32
    assert predictor.predict(np.zeros((40, 60, 3), np.uint8)).semantic.shape == (40, 60)
