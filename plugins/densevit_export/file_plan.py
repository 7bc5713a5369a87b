"""Plans an export: validates the options and traces the graph."""

import copy
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from densevit.errors import ConfigError, DensevitError, WeightsError
from densevit.interfaces import Size
from densevit.layers.padding import padded
from densevit.model import DenseModel, InferenceModel, Threshold
from densevit_export import canvas_files, file_comparison, postprocessing
from densevit_export.browser_page import is_page
from densevit_export.deployment import deployable
from densevit_export.engine import Engine
from densevit_export.exported_outputs import is_exportable
from densevit_export.exported_resizing import Resizing, check_resizing
from densevit_export.graph import ExportedGraph
from densevit_export.half_precision import LIMITS, Half
from densevit_export.source import SUFFIXES

_PHOTO: Size = (480, 640)  # its evaluation size is compared first
_ORIGINAL_SIZES: list[Size] = [_PHOTO, (333, 250), (64, 97)]  # compared with `resize`
_TRACED: Size = (421, 453)
_LARGE: Size = (389, 517)  # has several attention windows; smaller images may have only one


@dataclass(frozen=True)
class FileOptions:
    """Options of `export`. int8: whether to calibrate for int8."""

    half: Half | None = None
    int8: bool = False
    resize: bool = False
    postprocess: bool = False
    threshold: Threshold | None = None
    canvas: Size | None = None


@dataclass(frozen=True)
class FilePlan:
    """The graph that an export writes, and the images and thresholds for comparing it with the model.

    graph: the model's, in float32. traced: the same graph with the layers of `deployable`, for the file. sizes: sizes
    of the compared images, after the evaluation transform unless the file resizes. thresholds: each head's lowest
    score of objects; None for a file without post-processing.
    """

    model: DenseModel
    options: FileOptions
    graph: ExportedGraph
    traced: ExportedGraph
    sizes: list[Size]
    thresholds: dict[str, float] | None

    @property
    def traced_size(self) -> Size:
        """The size of traced images: large, because torch.export treats lengths of 1 (one window) as constants."""
        canvas = self.graph.canvas
        return (canvas[0] // 2 | 1, canvas[1] * 3 // 4 | 1) if canvas else _TRACED


def check_options(path: Path, options: FileOptions) -> None:
    """Raises DensevitError for options that the file format does not support, or a missing package."""
    is_onnx = path.suffix == ".onnx" or is_page(path)
    if path.suffix not in SUFFIXES and not is_page(path):
        formats = ", ".join(f"NAME{suffix}" for suffix in SUFFIXES)
        raise DensevitError(f"{path}: the suffix selects the format: {formats} or, for a page, a folder.")
    if options.resize and not is_onnx:
        raise DensevitError(
            f"{path}: only ONNX files can resize images (--resize), because torch.export would need the resized size "
            "to be an input. Fix: --out NAME.onnx, or resize images beforehand, see docs/export.md."
        )
    if is_onnx:
        _check_packages(path)
    if path.suffix in canvas_files.PACKAGES:
        canvas_files.check_package(path)
    if options.postprocess and not is_onnx:
        raise DensevitError(
            f"{path}: only ONNX files support post-processing: the number of objects and the size of the "
            "original image vary, which pt2 files do not allow. Fix: --out NAME.onnx, or leave out --postprocess."
        )
    if options.threshold is not None and not options.postprocess:
        raise ConfigError(
            "threshold: only files with post-processing select objects. Fix: postprocess=True, or leave it out."
        )
    if options.half is not None and options.half not in LIMITS:
        raise ConfigError(f"half is {options.half!r}; expected one of {', '.join(LIMITS)}.")
    if options.half in {".tflite": {"bf16"}, ".pte": {*LIMITS}}.get(path.suffix, ()):
        raise ConfigError(f"{path}: {path.suffix[1:]} files are not written in {options.half}. Fix: leave it out.")
    if options.half == "bf16" and is_onnx:
        raise ConfigError(
            "ONNX Runtime cannot run convolutions and matrix products in bf16 on the CPU, so the file could not be "
            "checked. Fix: fp16 (--half), or --out NAME.pt2."
        )
    if options.int8 and not is_onnx:
        raise ConfigError(
            f"{path}: only ONNX files can be quantised, by ONNX Runtime. Fix: name an ONNX file, or leave out int8."
        )
    if options.int8 and options.half is not None:
        raise ConfigError(f"{path}: int8 and half are two precisions of one file. Fix: leave one of them out.")


def _check_packages(path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ModuleNotFoundError:
            raise DensevitError(
                f"{path}: ONNX files need the package {package}, which is not installed. Fix: pip install "
                "-e '.[export]' in densevit's clone."
            ) from None


def file_plan(model: InferenceModel, path: Path, options: FileOptions) -> FilePlan:
    """Builds the graph of a file from a copy of the model, on the CPU.

    Raises DensevitError if the model cannot be exported with these options, or if there is no space. Warns if the model
    does not predict in one pass.
    """
    if isinstance(model, Engine):
        raise DensevitError(f"{model.file.path}: is an exported file. Fix: name the model that it was exported from.")
    dense = copy.deepcopy(cast(DenseModel, model)).cpu().float().eval()
    _check_heads(dense, options.postprocess and options.half is None)
    _check_space(path, sum(value.nbytes for value in dense.state_dict().values()) // (1 if options.half is None else 2))
    _warn_of_several_passes(model)
    canvas = _canvas(dense, options)
    if path.suffix in canvas_files.PACKAGES:
        canvas = canvas or _largest(dense)
    resizing = _resizing(dense) if options.resize else None
    graph, traced = (ExportedGraph(module, canvas, resizing).eval() for module in (dense, deployable(dense)))
    sizes = _ORIGINAL_SIZES if options.resize else _sizes(dense, canvas)
    thresholds = None
    if options.postprocess:
        thresholds = postprocessing.thresholds_of(graph, sizes[0], options.threshold, model.default_thresholds)
    return FilePlan(cast(DenseModel, model), options, graph, traced, sizes, thresholds)


def _check_heads(model: DenseModel, postprocess: bool) -> None:
    """Raises ConfigError for a model without heads, and for a head without outputs for files.

    postprocess: the outputs are the predictions, which every head has.
    """
    if not model.heads:
        raise ConfigError("This model has no heads, so a file would have no outputs. Fix: train a head on it.")
    for name, head in model.heads.items():
        if not postprocess and not is_exportable(head):
            raise ConfigError(
                f"heads.{name} ({type(head).__name__}) has no outputs for a file. Fix: implement "
                "exported(outputs, size), see docs/own-head.md; a DenseHead needs none."
            )


def _warn_of_several_passes(model: InferenceModel) -> None:
    for name, options in model.inference.items():
        if not options.single_pass or options.nms is not None:
            changed = ", ".join(f"{key}={value}" for key, value in options.model_dump(exclude_defaults=True).items())
            warnings.warn(
                f"heads.{name}: predicts with the inference options {changed}; the file predicts an image in "
                "one pass. To predict as the model does, run the file on each window, flip and scale, and apply NMS.",
                stacklevel=4,
            )


def _canvas(model: DenseModel, options: FileOptions) -> Size | None:
    """The canvas that is set, or else the backbone's `input_size`, or else the config's. Raises ConfigError for a
    canvas that the model does not support, or that is smaller than images."""
    canvas, transforms, fixed = options.canvas, model.resize, model.backbone.input_size
    if canvas is not None and fixed is not None:
        raise ConfigError(f"canvas: the backbone takes {fixed[0]}x{fixed[1]} only. Fix: leave out canvas.")
    if canvas is not None and canvas != padded(canvas, model.size_divisor):
        raise ConfigError(f"canvas is {canvas[0]}x{canvas[1]}; multiples of {model.size_divisor} are expected.")
    chosen = canvas or fixed
    if transforms is None:
        return chosen
    if chosen is None:
        return transforms.evaluation_canvas
    if canvas is None and not options.resize:  # the file may take windows
        return chosen
    for original in ((1000, 1000), (1000, 3000), (3000, 1000)):
        height, width = transforms.evaluation_size(*original)
        if height > chosen[0] or width > chosen[1]:
            fix = "leave out resize, and run the file on windows" if canvas is None else "a larger canvas"
            raise ConfigError(
                f"canvas is {chosen[0]}x{chosen[1]}; an image of {original[0]}x{original[1]} is resized to "
                f"{height}x{width}, which is larger. Fix: {fix}."
            )
    return chosen


def _largest(model: DenseModel) -> Size:
    """The smallest canvas for images of any aspect ratio after the evaluation transform."""
    if model.resize is None:
        raise ConfigError(
            "canvas: tflite and pte files take one size of images. Fix: name it, such as --canvas 320x320."
        )
    sizes = [model.resize.evaluation_size(*original) for original in ((1000, 1000), (1000, 3000), (3000, 1000))]
    heights, widths = zip(*sizes, strict=True)
    return padded((max(heights), max(widths)), model.size_divisor)


def _resizing(model: DenseModel) -> Resizing:
    """The resizing of the file, checked against `predict`."""
    transforms, channels = model.resize, model.channels
    if transforms is None:
        raise ConfigError(
            "This model has no config with `data.image_size`, which resizing in the file needs. Fix: "
            "export a run folder or one of its model files, or leave `resize` out."
        )
    resizing = Resizing(transforms)
    for size in _ORIGINAL_SIZES:
        check_resizing(resizing, file_comparison.example_images(size, 1, 0, channels), channels)
    return resizing


def _sizes(model: DenseModel, canvas: Size | None) -> list[Size]:
    """The image sizes on which file and model are compared, after the evaluation transform; the last one has odd
    sides."""
    transforms = model.resize
    size = (canvas or _PHOTO) if transforms is None else transforms.evaluation_size(*_PHOTO)
    if canvas:
        height, width = canvas
        size = (min(size[0], height), min(size[1], width))  # larger images are predicted in windows
        return [size, (height, width * 3 // 5 | 1), (height * 2 // 3 | 1, width)]
    return [size, (size[1], size[0]), (size[0] * 3 // 4 | 1, size[1] // 2 | 1), _LARGE]


def _check_space(out: Path, size: int) -> None:
    """Raises WeightsError if the disk of `out` has fewer than `size` bytes free."""
    folder = next(folder for folder in out.absolute().parents if folder.is_dir())
    if (free := shutil.disk_usage(folder).free) < size:
        raise WeightsError(
            f"{out} takes about {size / 1e6:.0f} MB; {folder} has {free / 1e6:.0f} MB free. Name another path, or free "
            "space."
        )
