"""Exports a model to a file that runs without densevit, and checks it."""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from densevit.errors import ConfigError, DensevitError
from densevit.exporting import comparison, files
from densevit.exporting.graph import ExportedGraph
from densevit.inference.predictor import Predictor
from densevit.interfaces import Head, Size
from densevit.model import DenseModel, makes_maps
from densevit.weights.atomic_io import check_free

LIMIT, HALF_LIMIT = 1e-4, 1e-2  # of an output's range
_PHOTO: Size = (480, 640)  # whose size for the model is the first that is compared
_RUNS = 5  # of each latency


@dataclass(frozen=True)
class Exported:
    """An exported file. differences: of each output from the model's, relative to its range, on images of `sizes`.

    model_ms, file_ms: median latency of an image of the first size on the CPU.
    """

    path: Path
    differences: dict[str, float]
    limit: float
    sizes: list[Size]
    model_ms: float
    file_ms: float

    @property
    def difference(self) -> float:
        """The largest one."""
        return max(self.differences.values())


def export(model: Predictor | DenseModel, path: str | Path, half: bool = False) -> Exported:
    """Writes NAME.onnx or NAME.pt2: uint8 RGB images (B, 3, H, W) in, boxes and maps in their pixels out.

    Normalisation, padding and decoding are inside; batch, height and width vary, unless the backbone has one size.
    half: weights and computation in float16. The file is run on several images and sizes and compared with the model.
    Raises DensevitError if it differs by more than 1e-4 of an output's range, 1e-2 with `half`; then no file is left.
    """
    path = Path(path)
    files.check_format(path)
    check_free(path)
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    own = copy.deepcopy(predictor.model).cpu().float().eval()
    check_heads(own)
    canvas = None if predictor.resize is None else predictor.resize.canvas
    graph = ExportedGraph(own, canvas).eval()
    traced = ExportedGraph(copy.deepcopy(own).half(), canvas).eval() if half else graph
    sizes = _sizes(predictor, canvas)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    try:
        files.write(traced, partial, sizes[-1], _header(own, canvas))
        run = files.load(partial)
        differences = comparison.worst([_compared(graph, run, size, i) for i, size in enumerate(sizes)])
        exported = Exported(path, differences, HALF_LIMIT if half else LIMIT, sizes, *_latencies(graph, run, sizes[0]))
        if not exported.difference <= exported.limit:
            name = max(differences, key=lambda key: differences[key])
            raise DensevitError(
                f"{path}: `{name}` differs from the model's by {exported.difference:.1e} of its range; at most "
                f"{exported.limit:.0e} is expected. No file is written."
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return exported


def check_heads(model: DenseModel) -> None:
    """Raises ConfigError for a model without heads, and for a head that has no outputs for files."""
    if not model.heads:
        raise ConfigError("This model has no heads, so that a file would have no outputs. Fix: train a head on it.")
    for name, head in model.heads.items():
        if getattr(type(head), "exported", None) in (None, Head.exported) and not makes_maps(head):
            raise ConfigError(
                f"heads.{name} ({type(head).__name__}) has no outputs for a file. Fix: implement "
                "exported(outputs, size), see docs/own-head.md; dense heads have it by maps() and read_maps()."
            )


def _sizes(predictor: Predictor, canvas: Size | None) -> list[Size]:
    """The sizes that are compared, of images as the model should see them; the last one has odd sides."""
    fixed = predictor.backbone.input_size
    if fixed:
        return [(fixed[0], fixed[1])]
    size = _PHOTO if predictor.resize is None else predictor.resize.size_of(*_PHOTO)
    if canvas:
        return [size, (canvas[0], max(1, canvas[1] * 3 // 5)), (max(1, canvas[0] * 2 // 3 | 1), canvas[1])]
    return [size, (size[1], size[0]), (size[0] * 3 // 4 | 1, size[1] // 2 | 1)]


def _compared(graph: ExportedGraph, run: files.Run, size: Size, seed: int) -> dict[str, float]:
    return comparison.differences(graph, run, comparison.example_images(size, 2 if seed == 0 else 1, seed))


def _latencies(graph: ExportedGraph, run: files.Run, size: Size) -> tuple[float, float]:
    """Median milliseconds of the model and of the file, run alternately after a warm-up."""
    images = comparison.example_images(size, 1, 0)
    tensor = torch.from_numpy(images)
    kinds: Sequence[Callable[[], Any]] = (torch.inference_mode()(lambda: graph(tensor)), lambda: run(images))
    times: list[list[float]] = [[], []]
    for _ in range(_RUNS + 1):
        for own, call in zip(times, kinds, strict=True):
            start = time.perf_counter()
            call()
            own.append(1000 * (time.perf_counter() - start))
    model_ms, file_ms = (statistics.median(own[1:]) for own in times)
    return model_ms, file_ms


def _header(model: DenseModel, canvas: Size | None) -> dict[str, Any]:
    """What users of a file need to know of its heads."""
    heads = {
        name: {"task": getattr(head, "task", None), "classes": [asdict(one) for one in model.classes[name]]}
        for name, head in model.heads.items()
    }
    return {"heads": heads, "canvas": canvas, "input_size": model.backbone.input_size}
