"""Post-training quantisation of ONNX files to int8 (Jacob et al. 2018, section 3), and its comparison with float32."""

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.errors import ConfigError, DataError, DensevitError
from densevit.evaluation.recorded import RecordedEvaluation
from densevit.inference.array_inputs import as_sample
from densevit.layers.padding import padded
from densevit.model import DenseModel
from densevit_export.latency import median_latencies
from densevit_export.runtimes import IMAGES, load, silenced

MAX_LOSS = 0.01  # of a main metric, above which `checked` warns
_ROUNDS = 20  # per latency
_CONVOLUTION = "Conv"
_LINEAR = ("Gemm", "MatMul")


@dataclass(frozen=True)
class Quantization:
    """The comparison of an int8 file with its float32 original.

    images: the number of calibration images. float32_ms, int8_ms, model_ms: median latencies of one image on this CPU,
    run alternately; model_ms is None without the model. float32_bytes, int8_bytes: file sizes. warnings: one line each.
    """

    images: int
    float32_ms: float
    int8_ms: float
    float32_bytes: int
    int8_bytes: int
    warnings: tuple[str, ...] = ()
    model_ms: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The entry `int8` of a header."""
        return {**asdict(self), "warnings": list(self.warnings)}


def calibration_images(model: DenseModel, images: Iterable[Any], resize: bool) -> Iterator[np.ndarray]:
    """The inputs (1, C, h, w) of a file for images as in `predict`, resized as for evaluation.

    resize: whether the file resizes images. Raises DataError for an unreadable image, and ConfigError for an image size
    that the file does not take.
    """
    fixed, transforms = model.backbone.input_size, None if resize else model.resize
    transform = None if transforms is None else EvaluationTransform(transforms)
    for i, image in enumerate(images):
        sample = as_sample(image, i, model.channels)
        pixels = (sample if transform is None else transform(sample))["image"]
        size = (pixels.shape[1], pixels.shape[2])
        if fixed is not None and not resize and padded(size, fixed) != fixed:
            raise ConfigError(
                f"calibration image {i} has {size[0]}x{size[1]} pixels after the evaluation transform; the backbone "
                f"takes at most {fixed[0]}x{fixed[1]}. Fix: pass windows of images."
            )
        yield np.ascontiguousarray(pixels.numpy()[None])


def quantize(
    path: Path,
    images: Iterable[np.ndarray],
    example: np.ndarray,
    inputs: Mapping[str, np.ndarray],
    model: Callable[[], Any] | None = None,
) -> Quantization:
    """Replaces a float32 ONNX file by an int8 file without header, and compares both.

    Weights are int8 per output channel, symmetric, from -64 to 64; activations are uint8, with the smallest and the
    largest value on the images as bounds. images: calibration images, (1, C, h, w). example: the image for latencies.
    inputs: the other inputs of the file. model: computes the same image. Raises DataError without images, and
    DensevitError if a layer cannot be quantised.
    """
    float32_bytes = path.stat().st_size
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        float32 = Path(folder) / f"float32{path.suffix}"
        os.replace(path, float32)
        count = _write(float32, path, images, inputs)
        calls: list[Callable[[], Any]] = [partial(load(file), example, **inputs) for file in (float32, path)]
        float32_ms, int8_ms, *model_latency = median_latencies(calls if model is None else [*calls, model], _ROUNDS)
    model_ms = model_latency[0] if model_latency else None
    return Quantization(count, float32_ms, int8_ms, float32_bytes, path.stat().st_size, model_ms=model_ms)


def checked(
    quantization: Quantization, evaluation: RecordedEvaluation | None, main_metrics: Mapping[str, bool] | None
) -> Quantization:
    """Adds warnings if int8 is no faster than float32, or loses more than `MAX_LOSS` of a metric.

    evaluation: None: not evaluated. main_metrics: names, with whether lower is better; None: the first metric of each
    head, where higher is better.
    """
    warnings = []
    if quantization.int8_ms >= quantization.float32_ms:
        warnings.append(
            f"int8 is no faster than float32 on this CPU, {quantization.int8_ms:.1f} ms and "
            f"{quantization.float32_ms:.1f} ms. Fix: use the float32 file."
        )
    if evaluation is not None:
        model, file = evaluation.model, evaluation.file
        names = _first_of_heads(model) if main_metrics is None else main_metrics
        worse = [name for name, lower in names.items() if _loses(model[name], file[name], lower)]
        if worse:
            values = ", ".join(f"{name} is {file[name]:.3f} instead of {model[name]:.3f}" for name in worse)
            warnings.append(f"int8 loses more than {MAX_LOSS}: {values}.")
    return replace(quantization, warnings=tuple(warnings))


def _first_of_heads(metrics: Mapping[str, float]) -> dict[str, bool]:
    first: dict[str, str] = {}
    for name in metrics:
        first.setdefault(name.partition("/")[0], name)
    return dict.fromkeys(first.values(), False)


def _loses(model: float, file: float, lower_is_better: bool) -> bool:
    """Whether a metric loses too much; an undefined metric of the model loses nothing."""
    loss = file - model if lower_is_better else model - file
    return math.isfinite(model) and not loss <= MAX_LOSS


def _write(source: Path, path: Path, images: Iterable[np.ndarray], inputs: Mapping[str, np.ndarray]) -> int:
    """Quantises the float32 file `source` and writes the int8 file `path`. Returns the number of calibration images."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    remaining = iter(images)
    if (first := next(remaining, None)) is None:
        raise DataError(f"{path}: int8 needs calibration images, and there are none. Fix: name some.")
    remaining, count = chain([first], remaining), 0

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            nonlocal count
            image = next(remaining, None)
            count += image is not None
            return None if image is None else {IMAGES: image, **inputs}

    preprocessed = source.with_name(f"preprocessed{source.suffix}")
    with silenced():
        try:
            quant_pre_process(source, preprocessed, skip_symbolic_shape=True)
            quantization.quantize_static(
                preprocessed,
                path,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=[_CONVOLUTION, *_LINEAR],
                nodes_to_quantize=_layers(preprocessed),
                per_channel=True,
                reduce_range=True,  # x86 CPUs without VNNI add two products in int16: at most 2 * 255 * 64 = 32,640
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": [*_LINEAR]},
            )
        except (DensevitError, OSError):
            raise
        except Exception as error:  # the package does not document its exceptions
            lines = str(error).strip().splitlines()
            raise DensevitError(
                f"{path}: ONNX Runtime cannot quantise this model: {type(error).__name__}: "
                f"{lines[0][:200] if lines else ''}"
            ) from error
    return count


def _layers(path: Path) -> list[str]:
    """The names of the quantised nodes of a file: layers with constant weights, not products of activations as in
    attention and resizing."""
    import onnx

    graph = onnx.load(path).graph
    constants = {initializer.name for initializer in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return [node.name for node in graph.node if node.op_type in (_CONVOLUTION, *_LINEAR) and node.input[1] in constants]
