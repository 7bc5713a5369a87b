"""Exports a model to a file that runs without densevit, and checks it."""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from densevit.atomic_io import atomic_file, check_free, check_space
from densevit.errors import ConfigError, DensevitError, counted
from densevit.exporting import comparison, files, postprocessing, quantization
from densevit.exporting.deployment import deployable
from densevit.exporting.graph import ExportedGraph
from densevit.exporting.half_precision import Block, Half, check_half, measured
from densevit.exporting.header import header_of
from densevit.exporting.latency import median_latencies
from densevit.exporting.quantization import Quantization
from densevit.exporting.resizing import Resizing, check_resizing
from densevit.exporting.selections import load_selections
from densevit.inference import runtimes
from densevit.inference.file_model import FileModel, RecordedEvaluation, predictor_of
from densevit.inference.predictor import Predictor, Threshold
from densevit.inference.runtimes import open_file
from densevit.interfaces import Size
from densevit.model import DenseModel
from densevit.paths import user_path
from densevit.progress import steps

LIMIT = 1e-4  # of an output's range, in float32
_PHOTO: Size = (480, 640)  # its evaluation size is the first that is compared
_ORIGINAL_SIZES: list[Size] = [_PHOTO, (333, 250), (64, 97)]  # compared with `resize`
_TRACED: Size = (421, 453)
_LARGE: Size = (389, 517)  # has several attention windows; smaller images may have one
_BATCHES = (2, 1, 5)  # numbers of images that are compared
_ZOOMS = (1.0, 1.4, 0.6)  # original sizes relative to those of the images, which are compared with `postprocess`
_RUNS = 5  # per latency


@dataclass(frozen=True)
class Exported:
    """An exported file.

    differences: by output, the largest difference from the model's, relative to its range, on images of `sizes`.
    model_ms, file_ms: median latency of an image of the first size on the CPU. evaluation: the metrics of the model and
    of the file; None if they were not evaluated. blocks: the precisions of a file in half precision; empty in float32.
    quantization: of an int8 file, whose differences and limit are those of the float32 file that it was made of.
    """

    path: Path
    differences: dict[str, float]
    limit: float
    sizes: list[Size]
    model_ms: float
    file_ms: float
    evaluation: RecordedEvaluation | None = None
    quantization: Quantization | None = None
    blocks: Sequence[Block] = ()

    @property
    def difference(self) -> float:
        """The largest difference of all outputs."""
        return max(self.differences.values())


Evaluate = Callable[[Predictor], Mapping[str, float]]
"""Evaluates a predictor, such as `densevit.evaluate`. Returns metrics named HEAD/METRIC."""


def export(
    model: Predictor | DenseModel,
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
    """Writes NAME.onnx or NAME.pt2, which maps uint8 RGB images (B, 3, H, W) to boxes and maps in their pixels.

    The file includes normalisation, padding and decoding; batch, height and width vary unless the backbone has one
    size. It has the layers of `deployable`, without those that only training uses. half: fp16, or bf16 for pt2: heavy
    layers are in half precision, except in blocks where this changes the outputs, see `half_precision`. resize: the
    file resizes images of any size, as `predict` does; only for ONNX. The file is run on several images and sizes and
    compared with the model. It predicts the whole image in one pass: inference options of the model, such as windows,
    cause a warning. quiet: shows no progress on stderr. evaluate: evaluates the model and the file; the metrics of both
    are written into the file. data: the name of the data, for this record. postprocess: the file makes the predictions
    of `predict` for one image, with NMS, merging, resizing to the original size and a score threshold; only for ONNX.
    threshold: with `postprocess`, the least score of objects, for all heads or by head; None: the model's
    `score_thresholds`, 0.5 without one. int8: images as of `predict`, on which the file is calibrated for int8 after
    the comparison; None: float32. Warns if int8 is no faster than float32 on this CPU, and if a main metric loses more
    than 0.01. main_metrics: these metrics, with whether lower is better; None: the first of each head, of which higher
    is better. canvas: (h, w) to which the file pads images, at which all sizes inside the model are constants; None:
    that of the model's config, or the next multiple of the coarsest stride.
    Raises DensevitError, and leaves no file, if an output differs by more than 1e-4 of its range, with `half` by more
    than `HalfPrecision.limit`.
    """
    path = user_path(path)
    files.check_format(path, resize)
    if postprocess:
        postprocessing.check_format(path)
    elif threshold is not None:
        raise ConfigError("threshold: is for files that select objects. Fix: postprocess=True, or leave it out.")
    if half is not None:
        check_half(half, path.suffix)
    if int8 is not None:
        quantization.check_format(path, half is not None)
    check_free(path)
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    if isinstance(predictor.model, FileModel):
        raise DensevitError(f"{predictor.model.file.path}: is an exported file. Fix: name the model that it is of.")
    own = copy.deepcopy(predictor.model).cpu().float().eval()
    check_heads(own, postprocess and half is None)
    check_space(path, sum(value.nbytes for value in own.state_dict().values()) // (1 if half is None else 2))
    for name, options in predictor.inference.items():
        if not options.single_pass:
            values = [(field.name, getattr(options, field.name), field.default) for field in fields(options)]
            changed = ", ".join(f"{key}={value}" for key, value, default in values if value != default)
            warnings.warn(
                f"heads.{name}: predicts with the inference options {changed}; the file predicts the whole image in "
                "one pass. To predict as the model does, run the file on each window, flip and scale.",
                stacklevel=2,
            )
    if canvas is None:
        canvas = None if predictor.resize is None else predictor.resize.canvas
    else:
        _check_canvas(predictor, canvas)
    resizing = _resizing(predictor) if resize else None
    graph = ExportedGraph(own, canvas, resizing).eval()
    traced = ExportedGraph(deployable(own), canvas, resizing).eval()
    sizes = _ORIGINAL_SIZES if resize else _sizes(predictor, canvas)
    thresholds = None
    if postprocess:
        thresholds = postprocessing.thresholds_of(graph, sizes[0], threshold, predictor.default_thresholds)
    with atomic_file(path) as partial:
        header = header_of(predictor, canvas, resize, thresholds)
        batches = _BATCHES if thresholds is None else (1,)
        compared = max(len(sizes), len(_BATCHES))
        count = files.count_steps(path, resize) + 1 + compared + 1 + (half is not None) + (int8 is not None)
        with steps(f"Exporting to {path}", count, quiet) as begin:
            precision = program = None
            if half is not None:
                begin(f"measuring blocks in {half}")
                plain, plain_size = ExportedGraph(traced.model, canvas).eval(), _traced_size(predictor, canvas, False)
                program = files.traced(plain, plain_size)
                precision = measured(plain, program, plain_size, half)
                header["half"] = precision.as_json()
            limit = LIMIT if precision is None else precision.limit
            traced_size = _traced_size(predictor, canvas, resize)
            rewrite = files.unchanged if precision is None else precision.set_types
            if thresholds is None:
                program = None if resize else program
                written = files.write(traced, partial, traced_size, header, begin, rewrite, program)
            else:
                postprocessing.write(traced, partial, traced_size, thresholds, header, begin, rewrite)
                written = partial
            begin("loading the file")
            run = runtimes.load(partial)
            selections = load_selections(traced.model, written)
            found = []
            for i in range(compared):
                size, batch = sizes[i % len(sizes)], batches[i % len(batches)]
                begin(f"comparing with the model on {counted(batch, 'image')} of {size[0]}x{size[1]}")
                images = comparison.example_images(size, batch, i)
                if thresholds is None:
                    found.append(comparison.differences(graph, run, images, selections))
                    continue
                zoom = 1.0 if resize else _ZOOMS[i % len(_ZOOMS)]
                original = (int(size[0] * zoom), int(size[1] * zoom))
                found.append(postprocessing.differences(graph, run, images, original, thresholds, selections, limit))
            differences = comparison.worst(found)
            begin("measuring latency")
            latencies = _latencies(graph, run, sizes[0], thresholds is not None)
            exported = Exported(path, differences, limit, sizes, *latencies)
            if precision is not None:
                exported = replace(exported, blocks=precision.blocks)
            if not exported.difference <= exported.limit:
                name = max(differences, key=lambda key: differences[key])
                hint = "" if precision is None else precision.hint()
                raise DensevitError(
                    f"{path}: `{name}` differs from the model's by {exported.difference:.1e} of its range; at most "
                    f"{exported.limit:.0e} is expected. No file is written.{hint}"
                )
            if int8 is not None:
                begin("calibrating int8")
                example = comparison.example_images(sizes[0], 1, 0)
                calibration = quantization.calibration_images(predictor, int8, resize)
                inputs = {} if thresholds is None else postprocessing.inputs_of(graph, sizes[0])
                model_call = _computation(graph, sizes[0], thresholds is not None)
                quantized = quantization.quantize(partial, calibration, example, inputs, model_call)
                latencies = (quantized.model_ms or exported.model_ms, quantized.int8_ms)
                exported = replace(exported, quantization=quantized, model_ms=latencies[0], file_ms=latencies[1])
                files.replace_header(partial, header)
        if evaluate is not None:
            of_file = predictor_of(open_file(partial), predictor)
            evaluation = RecordedEvaluation(dict(evaluate(predictor)), dict(evaluate(of_file)), data)
            exported = replace(exported, evaluation=evaluation)
        if exported.quantization is not None:
            checked = quantization.checked(exported.quantization, exported.evaluation, main_metrics)
            exported = replace(exported, quantization=checked)
            for problem in checked.warnings:
                warnings.warn(f"{path}: {problem}", stacklevel=2)
        if records := _records(exported):
            files.replace_header(partial, {**header, **records})
    return exported


def check_heads(model: DenseModel, postprocess: bool = False) -> None:
    """Raises ConfigError for a model without heads, and for a head that has no outputs for files.

    postprocess: the outputs are those of `predict`, which every head has.
    """
    if not model.heads:
        raise ConfigError("This model has no heads, so a file would have no outputs. Fix: train a head on it.")
    for name, head in model.heads.items():
        if not postprocess and not hasattr(head, "exported"):
            raise ConfigError(
                f"heads.{name} ({type(head).__name__}) has no outputs for a file. Fix: implement "
                "exported(outputs, size), see docs/own-head.md; a DenseHead has it."
            )


def _check_canvas(predictor: Predictor, canvas: Size) -> None:
    """Raises ConfigError for a canvas at which the model does not compute, or on which images have no room."""
    step = predictor.model.multiple
    if predictor.backbone.input_size is not None:
        size = "{}x{}".format(*predictor.backbone.input_size)
        raise ConfigError(f"canvas: the backbone takes one size, {size}, anyway. Fix: leave canvas out.")
    if min(canvas) < step or any(side % step for side in canvas):
        raise ConfigError(f"canvas is {canvas[0]}x{canvas[1]}; multiples of {step}, the coarsest stride, are expected.")
    if predictor.resize is None:
        return
    for original in ((1000, 1000), (1000, 3000), (3000, 1000)):
        height, width = predictor.resize.size_of(*original)
        if height > canvas[0] or width > canvas[1]:
            raise ConfigError(
                f"canvas is {canvas[0]}x{canvas[1]}; an image of {original[0]}x{original[1]} is resized to "
                f"{height}x{width}, which is larger. Fix: a larger canvas."
            )


def _resizing(predictor: Predictor) -> Resizing:
    """The resizing of `predict`, checked against it."""
    if predictor.resize is None:
        raise ConfigError(
            "This model has no config with `data.image_size`, to which the file could resize images. Fix: "
            "export a run folder or one of its model files, or leave `resize` out."
        )
    resizing = Resizing(predictor.resize.recipe)
    for size in _ORIGINAL_SIZES:
        check_resizing(resizing, comparison.example_images(size, 1, 0))
    return resizing


def _traced_size(predictor: Predictor, canvas: Size | None, resize: bool) -> Size:
    """The size of the traced images: large, because torch.export treats lengths of 1 (one window) as constants."""
    fixed = predictor.backbone.input_size
    if fixed and not (canvas and resize):
        return fixed
    return (canvas[0] // 2 | 1, canvas[1] * 3 // 4 | 1) if canvas else _TRACED


def _sizes(predictor: Predictor, canvas: Size | None) -> list[Size]:
    """The compared sizes, after evaluation resizing; the last one has odd sides."""
    fixed = predictor.backbone.input_size
    if fixed:
        return [(fixed[0], fixed[1])]
    size = _PHOTO if predictor.resize is None else predictor.resize.size_of(*_PHOTO)
    if canvas:
        height, width = canvas
        return [size, (height, width * 3 // 5 | 1), (height * 2 // 3 | 1, width)]
    return [size, (size[1], size[0]), (size[0] * 3 // 4 | 1, size[1] // 2 | 1), _LARGE]


def _latencies(graph: ExportedGraph, run: runtimes.Run, size: Size, postprocess: bool) -> tuple[float, float]:
    """Median milliseconds of the model and of the file, run alternately after a warm-up."""
    images = comparison.example_images(size, 1, 0)
    inputs = postprocessing.inputs_of(graph, size) if postprocess else {}
    compute = _computation(graph, size, postprocess)
    model_ms, file_ms = median_latencies([compute, lambda: run(images, **inputs)], _RUNS)
    return model_ms, file_ms


def _computation(graph: ExportedGraph, size: Size, postprocess: bool) -> Callable[[], Any]:
    """Computes an image with the model."""
    tensor = torch.from_numpy(comparison.example_images(size, 1, 0))

    @torch.inference_mode()
    def compute() -> Any:
        if not postprocess:
            return graph(tensor)
        return postprocessing.predict(graph, tensor if graph.resizing is None else graph.resizing(tensor), size)

    return compute


def _records(exported: Exported) -> dict[str, Any]:
    """The entries of the header that are known after the file is written."""
    records = {} if exported.evaluation is None else {"evaluation": exported.evaluation.as_json()}
    return records if exported.quantization is None else records | {"int8": exported.quantization.as_json()}
