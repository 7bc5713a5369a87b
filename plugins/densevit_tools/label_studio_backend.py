"""An ML backend for Label Studio, without encryption or passwords.

    python -m densevit_tools.label_studio_backend runs/detr_swin --port 9090

Then, in the project's settings, *Model*: connect http://localhost:9090. `--root` is the folder of local files, Label
Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
"""

import argparse
import json
import urllib.request
import warnings
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import densevit
from densevit.errors import DataError, DensevitError
from densevit.inference.downloads import URL_BYTES, URL_TIMEOUT, check_scheme
from densevit_tools.label_studio import LOCAL_FILES, controls_of, prediction, unmatched_names

MAX_BYTES = 8 * 2**20  # of a request, which names images


class Backend:
    """Answers the requests of Label Studio.

    root: the folder of local files; None: none are read. threshold: the least score; None: the model's.
    """

    def __init__(self, model: densevit.DenseModel, root: Path | None = None, threshold: float | None = None) -> None:
        self.model, self.root, self.threshold = model, root, threshold
        self.version = model.fingerprint()
        self._host, self._token, self._lock = "", "", Lock()

    def answers(self) -> Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]:
        """The function of each address. It takes the JSON of the request, {} of a GET."""
        return {"/": self.health, "/health": self.health, "/setup": self.setup, "/predict": self.predict}

    def health(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The state of the server."""
        return {"status": "UP", "model_class": "densevit", "model_version": self.version}

    def setup(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Checks the labelling interface of a project, and keeps the address and the token for its images.

        Warns of labels that are no class of the model, and of classes without a label, whose regions are left out.
        """
        if request.get("schema"):
            classes = {c.name for head_classes in self.model.classes.values() for c in head_classes}
            labels, without_label = unmatched_names(controls_of(request["schema"]), classes)
            if labels or without_label:
                warnings.warn(
                    f"The labelling interface and the model differ. Labels that are no class: {_joined(labels)}. "
                    f"Classes without a label, which are not predicted: {_joined(without_label)}. Fix: name the labels "
                    "as the classes; upper and lower case are the same.",
                    stacklevel=2,
                )
        self._host, self._token = request.get("hostname") or "", request.get("access_token") or ""
        return {"model_version": self.version}

    def predict(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Predictions for each task, for the controls of the project's labelling interface.

        Raises DataError for an image that cannot be read, ConfigError for an interface without suitable controls.
        """
        controls = controls_of(request.get("label_config") or request.get("schema") or "")
        images = [self.image(str(task["data"].get(controls[0].key))) for task in request.get("tasks", ())]
        with self._lock:
            results = self.model.predict(images, self.threshold) if images else []
        return {
            "results": [prediction(result, controls, self.version) for result in results],
            "model_version": self.version,
        }

    def image(self, address: str) -> Path | bytes:
        """The file or the content of an image: an address, one relative to Label Studio's, a local file or data."""
        if address.startswith("data:"):
            return b64decode(address.partition(",")[2])
        if (self.root is not None and LOCAL_FILES in address) or ("://" not in address and address[:1] != "/"):
            return self._local(unquote(address.rpartition(LOCAL_FILES)[2]))
        url = urljoin(self._host, address)
        check_scheme(url)
        request = urllib.request.Request(url, headers={"User-Agent": "densevit"})
        if self._token and urlsplit(url)[:2] == urlsplit(self._host)[:2]:
            request.add_unredirected_header("Authorization", f"Token {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=URL_TIMEOUT) as answer:
                content: bytes = answer.read(URL_BYTES)
        except OSError as error:
            raise DataError(f"{url} cannot be downloaded: {error}.") from None
        return content

    def _local(self, path: str) -> Path:
        """A file below the root. Raises DataError for others."""
        file = None if self.root is None else (self.root / path).resolve()
        if file is None or self.root is None or not file.is_relative_to(self.root.resolve()) or not file.is_file():
            raise DataError(f"{path}: there is no such file below {self.root}. Fix: --root FOLDER, the document root.")
        return file


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def server(backend: Backend, host: str = "127.0.0.1", port: int = 9090) -> ThreadingHTTPServer:
    """An HTTP server; `serve_forever` runs it. port 0: any free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            try:
                request = json.loads(self.rfile.read(length) or b"{}") if length <= MAX_BYTES else None
            except ValueError:
                request = None
            self._answer(request)

        def _answer(self, request: Any) -> None:
            function, status = backend.answers().get(self.path.partition("?")[0]), 200
            if function is None or not isinstance(request, dict):
                status, content = (404, {"error": f"There is no {self.path}."}) if function is None else (400, {})
            else:
                try:
                    content = function(request)
                except DensevitError as error:
                    status, content = 422, {"error": str(error)}
                    self.log_error("%s", error)
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer((host, port), Handler)


def main(arguments: list[str] | None = None) -> None:
    """Runs the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", metavar="MODEL", help="a run, a model file or an exported file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--root", type=Path, help="the folder of local files")
    parser.add_argument("--threshold", type=float, help="the least score (default: the model's)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(arguments)
    backend = Backend(densevit.load(args.model, args.device), args.root, args.threshold)
    with server(backend, args.host, args.port) as running:
        print(f"http://{args.host}:{running.server_address[1]}", flush=True)
        running.serve_forever()


if __name__ == "__main__":
    main()
