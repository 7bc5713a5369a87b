"""Runs exported files on the CPU: ONNX with ONNX Runtime or OpenVINO, pt2 with PyTorch, tflite with LiteRT, pte with
ExecuTorch."""

import json
import logging
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from densevit.errors import DensevitError, WeightsError, check_format, did_you_mean
from densevit.interfaces import Size
from densevit.paths import user_path

Run = Callable[..., dict[str, np.ndarray]]
"""Runs a file on images (B, C, H, W) and further inputs by name; returns outputs by name."""

RUNTIMES = ("onnxruntime", "openvino")
"""The packages that run ONNX files."""
_ONLY_RUNTIMES = {".pt2": "torch", ".tflite": "ai_edge_litert", ".pte": "executorch"}
"""The package that runs the files of another suffix."""
_INSTALL = {"onnxruntime": "-e '.[export]'", "openvino": "-e '.[openvino]'", "ai_edge_litert": "ai-edge-litert"}

IMAGES = "images"  # the input of all files
ORIGINAL_SIZE, THRESHOLDS = "original_size", "thresholds"  # further inputs of files with post-processing
SIZE = "size"  # a further input of tflite and pte files: height and width of the image in the canvas
FOCAL = "focal"  # a further input of files with a head of a canonical camera
FORMAT = 1  # `format_version` of headers
METADATA = "densevit"  # the key of the header in ONNX files
HEADER_FILE = "header.json"  # in pt2, tflite and pte files
OUTPUTS_FILE = "outputs.json"  # in tflite and pte files: the names of the outputs


@dataclass(frozen=True)
class ExportedFile:
    """An exported file that can be run.

    header: the JSON of `densevit.export`. runtime: the package that runs the file. size, batch: the (h, w) and the
    number of images per call; None: any.
    """

    path: Path
    header: Mapping[str, Any]
    run: Run
    runtime: str
    size: Size | None = None
    batch: int | None = None


def open_file(path: str | Path, runtime: str | None = None, trust: bool = False) -> ExportedFile:
    """Opens an exported file.

    runtime: one of `RUNTIMES`, for ONNX files; None: ONNX Runtime, and PyTorch for pt2 files. trust: opens pt2 files,
    from which PyTorch unpickles objects. Raises DensevitError for a runtime that is not installed, and WeightsError for
    a missing file, a file that densevit did not export, or a pt2 file without trust.
    """
    path = user_path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file. Fix: write it with `densevit export MODEL --out {path.name}`.")
    only_runtime = _ONLY_RUNTIMES.get(path.suffix.lower())
    if only_runtime == "torch" and not trust:
        raise WeightsError(
            f"{path}: PyTorch unpickles objects of pt2 files, which can run code, and the file may be from another "
            "person. Fix: if you trust the file, use densevit.load(..., trust=True) or --trust; or export to ONNX."
        )
    if only_runtime is not None and runtime is not None:
        raise DensevitError(
            f"{path}: {only_runtime} runs {path.suffix} files, not {runtime}. Fix: leave the runtime out."
        )
    runtime = only_runtime or (RUNTIMES[0] if runtime is None else runtime)
    if runtime not in (*RUNTIMES, only_runtime):
        raise DensevitError(f"runtime {runtime!r}: there is no such runtime.{did_you_mean(runtime, RUNTIMES)}")
    program = _opened(path, runtime)
    header = _header(path, program)
    batch, _, *size = program.shape
    height, width = size
    fixed = None if height is None or width is None else (height, width)
    return ExportedFile(path, header, program.run, runtime, fixed, batch)


def load(path: Path) -> Run:
    """Loads a file for the first runtime of its format. Returns the function that runs it."""
    return _opened(path, _ONLY_RUNTIMES.get(path.suffix.lower(), RUNTIMES[0])).run


class _Program(NamedTuple):
    """header: its text; None without a header. shape: the shape of the images; None: any."""

    header: str | None
    run: Run
    shape: Sequence[int | None]


def _opened(path: Path, runtime: str) -> _Program:
    try:
        __import__(runtime)
    except ModuleNotFoundError:
        raise DensevitError(
            f"{path}: running it needs the package {runtime}, which is not installed. Fix: pip install "
            f"{_INSTALL.get(runtime, runtime)}"
        ) from None
    opened = {
        "onnxruntime": _with_onnxruntime,
        "openvino": _with_openvino,
        "torch": _with_torch,
        "ai_edge_litert": _with_litert,
        "executorch": _with_executorch,
    }[runtime]
    try:
        return opened(path)
    except Exception as error:  # the packages do not document their exceptions
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200] if lines else ''}".rstrip(": .")
        raise WeightsError(
            f"{path}: is not a complete exported file ({reason}). Fix: copy it again, or export it again."
        ) from None


def _with_onnxruntime(path: Path) -> _Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {IMAGES: images, **inputs}), strict=True))

    images = next((value for value in session.get_inputs() if value.name == IMAGES), session.get_inputs()[0])
    shape = [side if isinstance(side, int) else None for side in images.shape]
    return _Program(session.get_modelmeta().custom_metadata_map.get(METADATA), run, shape)


def _with_openvino(path: Path) -> _Program:
    import openvino

    model = openvino.Core().read_model(path)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    metadata_key = ["framework", METADATA]  # where OpenVINO stores ONNX metadata

    def run(images: np.ndarray, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        outputs = compiled({IMAGES: images, **inputs}).to_dict()
        return {key.get_any_name(): value for key, value in outputs.items()}

    images = next((value for value in model.inputs if IMAGES in value.get_names()), model.inputs[0])
    shape = [side.get_length() if side.is_static else None for side in images.get_partial_shape()]
    header = model.get_rt_info(metadata_key).astype(str) if model.has_rt_info(metadata_key) else None
    return _Program(header, run, shape)


def _with_torch(path: Path) -> _Program:
    extra = {HEADER_FILE: ""}
    with silenced():  # torch warns of files without a header
        program = torch.export.load(path, extra_files=extra)
    module = program.module()

    def run(images: np.ndarray, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = module(*map(torch.from_numpy, (images, *inputs.values())))
        return {name: value.numpy() for name, value in outputs.items()}

    images = next(node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
    shape = [side if isinstance(side, int) else None for side in images.meta["val"].shape]
    return _Program(extra[HEADER_FILE] or None, run, shape)


def _with_litert(path: Path) -> _Program:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=torch.get_num_threads())
    runner = interpreter.get_signature_runner()
    canvas = tuple(runner.get_input_details()[IMAGES]["shape"][2:])
    return _on_canvas(path, lambda inputs: runner(**inputs), (canvas[0], canvas[1]))


def _with_executorch(path: Path) -> _Program:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    canvas = tuple(method.metadata.input_tensor_meta(0).sizes()[2:])
    with zipfile.ZipFile(path) as archive:
        names = json.loads(archive.read(OUTPUTS_FILE))

    def compute(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            values = method.execute([torch.from_numpy(value) for value in inputs.values()])
        except RuntimeError as error:
            raise DensevitError(f"{path}: ExecuTorch does not run it: {error}.") from None
        return {name: value.numpy().copy() for name, value in zip(names, values, strict=True)}

    return _on_canvas(path, compute, (canvas[0], canvas[1]))


def _on_canvas(
    path: Path, compute: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]], canvas: Size
) -> _Program:
    """A program for images up to the size of the canvas, which `compute` pads one by one. Outputs of the size of the
    canvas are cropped to the image's."""
    computing = threading.Lock()

    def run(images: np.ndarray, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        height, width = images.shape[2:]
        below, right = canvas[0] - height, canvas[1] - width
        if min(below, right) < 0:
            raise DensevitError(
                f"{path}: takes images of at most {canvas[0]}x{canvas[1]} pixels; this one has {height}x{width}. Fix: "
                "resize it, or export with a larger --canvas."
            )
        padded = np.pad(images, ((0, 0), (0, 0), (0, below), (0, right)))
        size = np.array([height, width], np.int32)
        results = []
        for i in range(len(images)):
            further = {name: value[i : i + 1] for name, value in inputs.items()}
            with computing:
                results.append(compute({IMAGES: padded[i : i + 1], SIZE: size, **further}))
        outputs = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
        return {
            name: value[..., :height, :width] if value.shape[-2:] == canvas else value
            for name, value in outputs.items()
        }

    with zipfile.ZipFile(path) as archive:
        return _Program(archive.read(HEADER_FILE).decode(), run, (None, None, None, None))


def _header(path: Path, program: _Program) -> dict[str, Any]:
    """The header of `densevit.export`. Raises WeightsError for a file without it, or of a program for other inputs."""
    try:
        header = json.loads(program.header or "null")
    except ValueError:
        header = None
    if isinstance(header, dict) and "format_version" in header:
        check_format(header["format_version"], FORMAT, path, WeightsError)
    if len(program.shape) != 4 or not _is_complete(header):
        raise WeightsError(
            f"{path}: has no densevit header, so its inputs and outputs are unknown. Fix: write the file with "
            "`densevit export`; files of other programs are not read."
        )
    return header


def _is_complete(header: Any) -> bool:
    if (
        not isinstance(header, dict)
        or not {"format_version", "heads", "backbone", "input_size", "resize"} <= header.keys()
    ):
        return False
    heads = header["heads"]
    parts = [header["backbone"], *heads.values()] if isinstance(heads, dict) else []
    return bool(parts) and all(isinstance(part, dict) and {"channels", "strides"} <= part.keys() for part in parts)


@contextmanager
def silenced() -> Iterator[None]:
    """Silences warnings, and log messages up to the level WARNING."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
