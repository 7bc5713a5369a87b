"""Exports a model to a file that runs without densevit, and checks the file."""

import itertools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densevit.atomic_io import atomic_file, check_free
from densevit.errors import DensevitError, counted, printable
from densevit.evaluation.recorded import RecordedEvaluation
from densevit.interfaces import Size
from densevit.model import DenseModel, InferenceModel, Threshold, unwrapped
from densevit.paths import user_path
from densevit_export import browser_page, canvas_files, file_comparison, files, postprocessing, quantization, runtimes
from densevit_export.engine import engine_of
from densevit_export.file_plan import FileOptions, FilePlan, check_options, file_plan
from densevit_export.graph import ExportedGraph
from densevit_export.half_precision import BlockPrecision, Half, HalfPrecision, measured
from densevit_export.header import header_of
from densevit_export.latency import median_latencies
from densevit_export.quantization import Quantization
from densevit_export.runtimes import open_file
from densevit_export.selections import load_selections

LIMIT = 1e-4  # of an output's range, in float32
_BATCHES = (2, 1, 5)  # batch sizes of the comparisons
_ZOOMS = (1.0, 1.4, 0.6)  # original size relative to image size, for comparisons with `postprocess`
_RUNS = 5  # per latency


@dataclass(frozen=True)
class Exported:
    """An exported file.

    differences: each output's largest difference from the model's, relative to its range, on images of `sizes`.
    model_ms, file_ms: median latency of an image of the first size on the CPU. evaluation: the metrics of model and
    file; None without an evaluation. blocks: the precision of each block, in half precision only. quantization: the
    figures of an int8 file; differences and limit then describe the float32 file before quantisation. thresholds: the
    defaults of the file's input `thresholds`, by head.
    """

    path: Path
    differences: dict[str, float]
    limit: float
    sizes: list[Size]
    model_ms: float
    file_ms: float
    evaluation: RecordedEvaluation | None = None
    quantization: Quantization | None = None
    blocks: Sequence[BlockPrecision] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """The largest difference over all outputs."""
        return max(self.differences.values())


Evaluate = Callable[[InferenceModel], Mapping[str, float]]
"""Evaluates a model or its file, such as `densevit.evaluate`. Returns metrics named HEAD/METRIC."""


def export(
    model: InferenceModel,
    path: str | Path,
    half: Half | None = None,
    resize: bool = False,
    quiet: bool = False,
    evaluate: Evaluate | None = None,
    data: str | None = None,
    postprocess: bool = False,
    threshold: Threshold | None = None,
    int8: Iterable[Any] | None = None,
    main_metrics: Mapping[str, bool] | None = None,
    canvas: Size | None = None,
) -> Exported:
    """Writes NAME.onnx, NAME.pt2, NAME.tflite or NAME.pte, or a folder with a page for browsers.

    A file maps images (B, C, H, W) to boxes and maps in their pixels. The page runs such an ONNX file in a browser,
    with `resize` and `postprocess`.

    Images have the model's channels and type, uint8 RGB by default; pixels without data are NaN. The file contains
    normalisation, padding and decoding; batch, height and width vary unless the backbone has a fixed size. Its layers
    are the `deployable` model's, without layers for training only. The file is run on several images and sizes and
    compared with the model. It predicts images in one pass: inference options of the model, such as windows, cause a
    warning.

    half: fp16, or bf16 for pt2: heavy layers compute in half precision, except in blocks where this changes the
    outputs (`half_precision`). resize: the file resizes images of any size, as `predict` does; ONNX only. quiet:
    shows no progress on stderr. evaluate: evaluates model and file; both metrics are written into the file. data: the
    data's name in this record. postprocess: the file computes the predictions of `predict` for one image, with NMS,
    merging, resizing to the original size and a score threshold; ONNX only. threshold: the lowest score of objects with
    `postprocess`, for all heads or by head; None: the model's `score_thresholds`, or 0.5. int8: images as for
    `predict`, for int8 calibration after the comparison; None: float32. Warns if int8 is no faster than float32 on this
    CPU, and if a main metric loses more than 0.01. main_metrics: names, with whether lower is better; None: the first
    metric of each head, where higher is better. canvas: (h, w) that the file pads images to, where all sizes inside the
    model are constants; None: the backbone's `input_size`, the config's canvas, or the model's
    `size_divisor`.

    Raises DensevitError, and leaves no file, if an output differs by more than 1e-4 of its range, with `half` by more
    than `HalfPrecision.limit`.

    Example:
        >>> backbone, heads = {"name": "resnet", "depth": 18}, {"classification": "classifier"}
        >>> model = densevit.create_model(backbone, heads, classes=["cat", "dog"])
        >>> densevit.export(model, "model.pt2", quiet=True).difference < 1e-4
        True
    """
    model, path = unwrapped(model, "export"), user_path(path)
    if is_page := browser_page.is_page(path):
        browser_page.check_model(model)
        resize, postprocess = model.resize is not None, True
    options = FileOptions(half, int8 is not None, resize, postprocess, threshold, canvas)
    check_options(path, options)
    check_free(path)
    plan = file_plan(model, path, options)
    with browser_page.page(path) if is_page else atomic_file(path) as partial:
        header = header_of(plan.model, plan.graph.canvas, resize, plan.thresholds)
        count = (half is not None) + files.count_steps(partial, resize) + 1 + _comparisons(plan) + 1 + options.int8
        begin = progress_lines(f"Exporting to {path}", count, quiet)
        written, precision = _write(plan, partial, header, begin)
        if precision is not None:
            header["half"] = precision.as_json()
        exported = _compared(plan, path, partial, precision, written, begin)
        if int8 is not None:
            exported = _quantized(plan, exported, partial, int8, begin)
            files.replace_header(partial, header)
        if evaluate is not None:
            exported = replace(exported, evaluation=_evaluated(plan.model, partial, evaluate, data))
        if exported.quantization is not None:
            quantized = quantization.checked(exported.quantization, exported.evaluation, main_metrics)
            exported = replace(exported, quantization=quantized)
            for problem in quantized.warnings:
                warnings.warn(f"{path}: {problem}", stacklevel=2)
        if records := _records(exported):
            files.replace_header(partial, {**header, **records})
    return exported


def _half_precision(
    plan: FilePlan, half: Half, begin: files.Begin
) -> tuple[HalfPrecision, torch.export.ExportedProgram]:
    """Selects the precision of each block (`half_precision.measured`). Returns the precisions and the traced graph
    without resizing."""
    begin(f"measuring blocks in {half}")
    graph, size = ExportedGraph(plan.traced.model, plan.graph.canvas).eval(), plan.traced_size
    program = files.traced(graph, size)
    return measured(graph, program, size, half), program


def _write(
    plan: FilePlan, partial: Path, header: Mapping[str, Any], begin: files.Begin
) -> tuple[Path | torch.export.ExportedProgram, HalfPrecision | None]:
    """Writes the file. Returns the result of `files.write`, and with `half` the precision of the blocks, which is in
    the file's header."""
    half, precision, program = plan.options.half, None, None
    if partial.suffix in canvas_files.PACKAGES:
        return partial, canvas_files.write(plan.traced, partial, header, half, begin)
    if half is not None:
        precision, program = _half_precision(plan, half, begin)
        header = {**header, "half": precision.as_json()}
    size = plan.traced_size
    rewrite = files.unchanged if precision is None else precision.set_types
    if plan.thresholds is None:
        program = None if plan.options.resize else program
        return files.write(plan.traced, partial, size, header, begin, rewrite, program), precision
    postprocessing.write(plan.traced, partial, size, plan.thresholds, header, begin, rewrite)
    return partial, precision


def _compared(
    plan: FilePlan,
    path: Path,
    partial: Path,
    precision: HalfPrecision | None,
    written: Path | torch.export.ExportedProgram,
    begin: files.Begin,
) -> Exported:
    """Runs the file and compares it with the model. Raises DensevitError if an output differs too much."""
    begin("loading the file")
    run = runtimes.load(partial)
    limit = LIMIT if precision is None else precision.limit
    differences = _differences(plan, run, load_selections(plan.traced.model, written), limit, begin)
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= limit:
        hint = "" if precision is None or partial.suffix in canvas_files.PACKAGES else precision.hint()
        raise DensevitError(
            f"{path}: `{worst}` differs from the model by {differences[worst]:.1e} of its range; at most {limit:.0e} "
            f"is expected. No file is written.{hint}"
        )
    begin("measuring latency")
    images, inputs = _example(plan)
    model_ms, file_ms = median_latencies([_computation(plan), lambda: run(images, **inputs)], _RUNS)
    blocks = () if precision is None else precision.blocks
    thresholds = plan.thresholds or {}
    return Exported(path, differences, limit, plan.sizes, model_ms, file_ms, blocks=blocks, thresholds=thresholds)


def _comparisons(plan: FilePlan) -> int:
    """The number of batches on which file and model are compared; each image size and each batch size occurs in at
    least one."""
    return max(len(plan.sizes), len(_BATCHES))


def _differences(
    plan: FilePlan, run: runtimes.Run, selections: runtimes.Run | None, limit: float, begin: files.Begin
) -> dict[str, float]:
    """The largest difference of each output, on images of all sizes."""
    by_batch = []
    for i in range(_comparisons(plan)):
        size, batch = plan.sizes[i % len(plan.sizes)], _BATCHES[i % len(_BATCHES)] if plan.thresholds is None else 1
        begin(f"comparing with the model on {counted(batch, 'image')} of {size[0]}x{size[1]}")
        images = file_comparison.example_images(size, batch, i, plan.graph.model.channels)
        if plan.thresholds is None:
            by_batch.append(file_comparison.differences(plan.graph, run, images, selections))
            continue
        zoom = 1.0 if plan.options.resize else _ZOOMS[i % len(_ZOOMS)]
        original = (int(size[0] * zoom), int(size[1] * zoom))
        differences = postprocessing.differences(plan.graph, run, images, original, plan.thresholds, selections, limit)
        by_batch.append(differences)
    return file_comparison.worst(by_batch)


def _example(plan: FilePlan) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The inputs of the file for one image of the first size, for latencies."""
    focal = {name: focal.numpy() for name, focal in plan.graph.focal_example(1).items()}
    inputs = focal
    if plan.thresholds is not None:
        inputs = postprocessing.inputs_of(plan.graph, plan.sizes[0], [*plan.thresholds.values()])
    return file_comparison.example_images(plan.sizes[0], 1, 0, plan.graph.model.channels), inputs


def _computation(plan: FilePlan) -> Callable[[], Any]:
    """Returns a function that runs the model on the example of `_example`, for latencies."""
    tensor, graph, focal = torch.from_numpy(_example(plan)[0]), plan.graph, plan.graph.focal_example(1)

    @torch.inference_mode()
    def compute() -> Any:
        if plan.thresholds is None:
            return graph(tensor, **focal)
        return postprocessing.predict(graph, graph.resized(tensor), plan.sizes[0], {}, **focal)

    return compute


def _quantized(
    plan: FilePlan, exported: Exported, partial: Path, images: Iterable[Any], begin: files.Begin
) -> Exported:
    """Replaces the file by an int8 file without header. images: the images for calibration."""
    begin("calibrating int8")
    calibration = quantization.calibration_images(plan.model, images, plan.options.resize)
    quantized = quantization.quantize(partial, calibration, *_example(plan), _computation(plan))
    model_ms = quantized.model_ms or exported.model_ms
    return replace(exported, quantization=quantized, model_ms=model_ms, file_ms=quantized.int8_ms)


def _evaluated(model: DenseModel, partial: Path, evaluate: Evaluate, data: str | None) -> RecordedEvaluation:
    """Evaluates the model and its file."""
    engine = engine_of(open_file(partial, trust=True), model)
    return RecordedEvaluation(dict(evaluate(model)), dict(evaluate(engine)), data)


def _records(exported: Exported) -> dict[str, Any]:
    """The header entries that are computed from the written file."""
    records = {} if exported.evaluation is None else {"evaluation": exported.evaluation.as_json()}
    return records if exported.quantization is None else records | {"int8": exported.quantization.as_json()}


def progress_lines(description: str, total: int, quiet: bool = False) -> Callable[[str], None]:
    """Returns a function that prints a line when a step begins. It takes the step's name, such as "tracing"; there are
    `total` steps."""
    started = itertools.count(1)

    def begin(name: str) -> None:
        if not quiet:
            text = printable(f"{description}, step {next(started)} of {total}: {name}")
            print(text, file=sys.stderr, flush=True)

    return begin
