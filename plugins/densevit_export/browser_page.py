"""A folder with a page that runs an exported file in a browser, by onnxruntime-web."""

import json
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densevit.atomic_io import atomic_folder
from densevit.errors import ConfigError
from densevit.model import InferenceModel
from densevit_export.runtimes import open_file

MODEL = "model.onnx"
VERSION = "1.30.0"  # of onnxruntime-web, the tested one
_PACKAGE = f"onnxruntime-web@{VERSION}"
_SCRIPT = "ort.webgpu.min.js"  # WebGPU and WASM
_FILES = (_SCRIPT, "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
_ADDRESS = f"https://cdn.jsdelivr.net/npm/{_PACKAGE}/dist"
_SECONDS = 300  # for npm


def is_page(path: Path) -> bool:
    """Whether `densevit export` writes a page to a path: a folder, which has no suffix."""
    return not path.suffix


def check_model(model: InferenceModel) -> None:
    """Raises ConfigError for a model that does not take images of browsers."""
    if not model.channels.is_rgb:
        channels = ", ".join(model.channels.names)
        raise ConfigError(f"A page reads RGB images; this model takes {channels}. Fix: --out NAME.onnx.")


@contextmanager
def page(out: Path) -> Iterator[Path]:
    """Yields the path of an ONNX file that resizes and post-processes; then writes the page beside it. Warns if npm
    does not copy onnxruntime-web, which the page then loads from another server."""
    with atomic_folder(out) as folder:
        yield folder / MODEL
        (folder / "model.json").write_text(json.dumps(open_file(folder / MODEL).header), encoding="utf-8")
        problem = _copy_runtime(folder / "onnxruntime-web")
        if problem:
            warnings.warn(
                f"{out}: the page loads {_PACKAGE} from {_ADDRESS}, because {problem}. Fix, for a page that works "
                "without other servers: install Node.js with npm, and export again.",
                stacklevel=4,
            )
        source = Path(__file__).with_name("browser")
        shutil.copy(source / "densevit.js", folder)
        script = f'<script src="{_ADDRESS if problem else "onnxruntime-web"}/{_SCRIPT}"></script>'
        html = (source / "index.html").read_text(encoding="utf-8")
        (folder / "index.html").write_text(html.replace("<!-- onnxruntime-web -->", script), encoding="utf-8")


def _copy_runtime(folder: Path) -> str:
    """Copies the files of onnxruntime-web that the page loads. Returns the reason if there are none, otherwise ""."""
    if (npm := shutil.which("npm")) is None:
        return "npm is not installed"
    with tempfile.TemporaryDirectory() as packed:
        try:
            command = [npm, "pack", _PACKAGE, "--ignore-scripts", "--silent", "--fetch-retries=1"]
            subprocess.run(command, cwd=packed, capture_output=True, timeout=_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            return f"`npm pack {_PACKAGE}` failed ({type(error).__name__})"
        (archive,) = Path(packed).glob("*.tgz")
        folder.mkdir()
        with tarfile.open(archive) as package:
            for name in _FILES:
                content = package.extractfile(f"package/dist/{name}")
                assert content is not None
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    return ""
