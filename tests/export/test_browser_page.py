"""The folder with a page: in a browser it predicts what the file does in Python."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.errors import ConfigError
from densevit_export import browser_page
from densevit_export.file_comparison import example_images
from tests.export.test_exporting import HEADS
from tests.small_models import FOUR_MAPS, NAMES, channel_predictor, without_zeros


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, which playwright drives. Skips without one of them, or without npm, which copies the runtime.
    Before the other arguments of a test, which export."""
    programs = {name: shutil.which(name) for name in ("chromium", "npm")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"needs {' and '.join(missing)}")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=programs["chromium"], chromium_sandbox=False)
        yield chromium
        chromium.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Prints nothing."""


def predicted_in(browser: Any, folder: Path, image: Path) -> tuple[dict[str, np.ndarray], str]:
    """The outputs of the page for an image, and the text below it. Fails if the page asks another server."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, address, addresses = browser.new_page(), f"http://127.0.0.1:{server.server_port}/", list[str]()
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(address)
        page.set_input_files("#file", image)
        page.wait_for_function("window.predictions || document.querySelector('#status.error')", timeout=300_000)
        if page.is_visible("#focal"):
            assert "focal length" in page.inner_text("#status"), "no depth without it"
            page.fill("#focal input", "300")
            page.dispatch_event("#focal input", "change")
            page.wait_for_function("window.predictions", timeout=300_000)
        outputs = page.evaluate(
            "Object.entries(window.predictions ?? {}).map(([key, x]) => [key, x.dims, Array.from(x.data, Number)])"
        )
        text = page.inner_text("body")
        page.close()
        server.shutdown()
    assert outputs, text
    assert {url.partition(":")[0] for url in addresses if not url.startswith(address)} <= {"blob", "data"}
    return {name: np.array(values).reshape(shape) for name, shape, values in outputs}, text


@pytest.mark.slow
@pytest.mark.parametrize("head", ["dfine", "mask2former-instance", "setr", "dpt"])
def test_the_page_predicts_what_the_file_does(browser: Any, head: str, tmp_path: Path):
    """On a photo that EXIF rotates, which the file resizes; depth with a focal length. No other server is asked."""
    torch.manual_seed(0)
    classes = None if head == "dpt" else [*NAMES]
    camera = {"camera": "canonical", "output": "softplus"} if head == "dpt" else {}
    model = without_zeros(densevit.create_model(FOUR_MAPS, {"x": HEADS[head] | camera}, classes))
    exported = densevit.export(model.with_resize(DefaultTransforms(96)), tmp_path / "web", threshold={})
    photo = Image.fromarray(example_images((150, 211), 1, 5)[0].transpose(1, 2, 0))
    exif = photo.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    photo.save(tmp_path / "photo.jpg", exif=exif, quality=95, subsampling=0)
    outputs, text = predicted_in(browser, exported.path, tmp_path / "photo.jpg")
    assert "ms on WASM, 150 x 211 pixels" in text
    expected = densevit.load(exported.path / "model.onnx", trust=True).predict(
        tmp_path / "photo.jpg", 0, focal=300 if camera else None
    )
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        assert outputs[name].shape == values.shape and values.numel() > 0
        if values.dtype.is_floating_point:
            np.testing.assert_allclose(outputs[name], values, rtol=0, atol=1e-3)
        else:
            assert (outputs[name] != values.numpy()).mean() < 1e-3


@pytest.mark.integration
def test_without_npm_the_page_loads_a_fixed_version_from_another_server(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    facts = r"web: the page loads onnxruntime-web@\d+\.\d+\.\d+ from .* because npm is not installed"
    with pytest.warns(UserWarning, match=facts), browser_page.page(tmp_path / "web") as file:
        shutil.copy(program / "model.onnx", file)
    names = {path.name for path in (tmp_path / "web").iterdir()}
    assert names == {"index.html", "densevit.js", "model.json", "model.onnx"}
    assert f"npm/onnxruntime-web@{browser_page.VERSION}/dist/" in (tmp_path / "web" / "index.html").read_text()


def test_images_that_no_browser_reads_are_an_error(tmp_path: Path):
    model = channel_predictor("uint16", {"x": HEADS["setr"]})
    with pytest.raises(ConfigError, match=r"A page reads RGB images; this model takes .*Fix: --out NAME\.onnx"):
        densevit.export(model, tmp_path / "web")
