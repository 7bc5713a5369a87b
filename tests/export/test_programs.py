"""The programs of docs/export.md give the objects of `densevit predict`. Skipped where their tools are
missing.

The packages of the JavaScript program, and onnxruntime-web, are found in examples/javascript/node_modules or in the
folder NODE_PACKAGES, ONNX Runtime's headers and library for C++ in ONNXRUNTIME_ROOT.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from tests.small_models import program_predictor

pytestmark = pytest.mark.integration


@pytest.fixture
def expected(program: Path) -> list[dict[str, Any]]:
    """The objects of `predict` on the image of the fixture `program`."""
    found = densevit.load(program / "model.onnx", trust=True).predict(program / "image.png")
    everything = program_predictor().predict(program / "image.png", threshold=0)
    np.testing.assert_allclose(found.scores, everything.scores[: len(found.scores)], atol=2e-3)  # one level of pixels
    rows = zip(found.names, found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [{"class": name, "score": score, "box": box} for name, score, box in rows]


def check(objects: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(objects) == len(expected) > 0
    for found, wanted in zip(objects, expected, strict=True):
        assert found["class"] == wanted["class"]
        assert found["score"] == pytest.approx(wanted["score"], abs=1e-5)
        assert found["box"] == pytest.approx(wanted["box"], abs=1e-2)


@pytest.fixture(params=["onnxruntime-node", "onnxruntime-web"])
def runtime(request: pytest.FixtureRequest, project: Path) -> tuple[Path, str]:
    """The folder with the packages of the JavaScript program, and its runtime. Skips where the program cannot run.
    Before `program` in a test's arguments, which exports."""
    for folder in (project / "examples" / "javascript", Path(os.environ.get("NODE_PACKAGES", "/nowhere"))):
        installed = all((folder / "node_modules" / name).is_dir() for name in (request.param, "sharp"))
        if installed and shutil.which("node") is not None:
            return folder, request.param
    pytest.skip(f"needs node, and {request.param} and sharp in NODE_PACKAGES")


def test_the_javascript_program_detects_what_predict_does(
    runtime: tuple[Path, str], project: Path, program: Path, expected: list[dict[str, Any]], tmp_path: Path
):
    """With onnxruntime-web, in WebAssembly, the program differs in its import only."""
    image = program / "image.png"
    packages, name = runtime
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    shutil.copy(project / "examples" / "javascript" / "package.json", tmp_path)
    text = (project / "examples" / "javascript" / "detect.js").read_text()
    (tmp_path / "detect.js").write_text(text.replace('"onnxruntime-node"', f'"{name}"'))
    files = [program / "model.onnx", program / "model.json", image, tmp_path / "drawn.png"]
    done = subprocess.run(["node", tmp_path / "detect.js", *files], capture_output=True, text=True, check=True)
    check([json.loads(line) for line in done.stdout.splitlines()], expected)
    drawn, given = (np.asarray(Image.open(path).convert("RGB")) for path in (files[3], image))
    assert drawn.shape == given.shape and (drawn != given).any()


def test_the_server_answers_with_the_objects_of_predict(project: Path, program: Path, expected: list[dict[str, Any]]):
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    start = "import runpy, sys; sys.modules.update(torch=None, densevit=None); runpy.run_module"
    start += "('examples.serve_onnx', run_name='__main__', alter_sys=False)"
    server = subprocess.Popen([sys.executable, "-c", start, program / "model.onnx", str(port)], cwd=project)
    try:
        for _ in range(600):
            with (
                suppress(URLError),
                urlopen(f"http://127.0.0.1:{port}/", (program / "image.png").read_bytes()) as reply,
            ):
                objects = json.load(reply)["x"]
                break
            time.sleep(0.1)
    finally:
        server.terminate()
        server.wait()
    check([{"class": one["name"], **one} for one in objects], expected)


def test_openvino_predicts_what_onnx_runtime_does(program: Path, expected: list[dict[str, Any]]):
    """Objects of any score, which AP needs, and those above the file's threshold."""
    pytest.importorskip("openvino")
    predictor, reference = (
        densevit.load(program / "model.onnx", trust=True, runtime=name) for name in ("openvino", "onnxruntime")
    )
    for threshold in (0, None):
        found, wanted = (model.predict(program / "image.png", threshold) for model in (predictor, reference))
        assert found.names == wanted.names and (len(found.names) > len(expected)) == (threshold == 0)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.boxes, wanted.boxes, rtol=0, atol=1e-2)


@pytest.mark.skipif(
    "ONNXRUNTIME_ROOT" not in os.environ or shutil.which("cmake") is None,
    reason="needs cmake, and ONNX Runtime in ONNXRUNTIME_ROOT",
)
def test_the_cpp_program_detects_what_predict_does(
    project: Path, program: Path, expected: list[dict[str, Any]], tmp_path: Path
):
    image = program / "image.png"
    subprocess.run(["cmake", "-S", project / "examples" / "cpp", "-B", tmp_path], capture_output=True, check=True)
    subprocess.run(["cmake", "--build", tmp_path], capture_output=True, check=True)
    Image.open(image).save(tmp_path / "image.ppm")
    files = [program / "model.onnx", tmp_path / "image.ppm", tmp_path / "drawn.ppm"]
    done = subprocess.run([tmp_path / "detect", *files], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    objects = [{"class": n, "score": float(s), "box": [float(side) for side in box]} for n, s, *box in rows]
    check(objects, expected)
    assert Image.open(files[2]).size == Image.open(image).size
