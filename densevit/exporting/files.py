"""Writes and runs exported files: ONNX, and torch.export's pt2."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densevit.errors import DensevitError
from densevit.exporting.comparison import Run
from densevit.exporting.graph import ExportedGraph
from densevit.interfaces import Size

FORMATS = (".onnx", ".pt2")
_BATCH = 13  # of the traced images: equal to no number of layers, so that it is not taken for one
_EXTRA = "header.json"


def check_format(path: Path) -> None:
    """Raises DensevitError for an unknown suffix, and without the packages that ONNX files need."""
    if path.suffix not in FORMATS:
        raise DensevitError(f"{path}: the suffix decides on the format. Expected NAME.onnx or NAME.pt2.")
    if path.suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                __import__(package)
            except ModuleNotFoundError:
                raise DensevitError(
                    f"{path}: ONNX files need the package {package}, which is not installed. Fix: pip install "
                    "'densevit[export]'."
                ) from None


def write(graph: ExportedGraph, path: Path, size: Size, header: Mapping[str, Any]) -> None:
    """Traces the graph and writes it. size: (h, w) of the traced images; others may differ unless the backbone has
    one size. header: written as JSON into the file. Raises DensevitError if the model cannot be traced.
    """
    example = torch.zeros(_BATCH, 3, *size, dtype=torch.uint8)
    varies = torch.export.Dim.DYNAMIC
    shapes: dict[int, Any] = {0: varies} if graph.model.backbone.input_size else {0: varies, 2: varies, 3: varies}
    with _silent(), torch.no_grad():
        names = list(graph(example[:1]))
        try:
            program = torch.export.export(graph, (example,), dynamic_shapes=(shapes, None)[:1], strict=False)
            if path.suffix == ".pt2":
                torch.export.save(program, path, extra_files={_EXTRA: json.dumps(header)})
                return
            exported = torch.onnx.export(
                program, (), dynamo=True, input_names=["images"], output_names=names, verbose=False
            )
            assert exported is not None
            exported.model.metadata_props["densevit"] = json.dumps(header)
            exported.save(path)
        except OSError:
            raise
        except Exception as error:  # of any kind, from the tracer
            parts = [type(graph.model.backbone).__name__, *(type(head).__name__ for head in graph.model.heads.values())]
            raise DensevitError(
                f"{' with '.join(parts)} cannot be exported: {_reason(error)} See docs/export.md, what can be exported."
            ) from error


def load(path: Path) -> Run:
    """Runs a file on the CPU, an ONNX file by ONNX Runtime."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))
    module = torch.export.load(path).module()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {name: value.numpy() for name, value in module(torch.from_numpy(images)).items()}

    return run


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the warnings and progress of the tracer."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def _reason(error: BaseException) -> str:
    """The first line of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(".") + "."
