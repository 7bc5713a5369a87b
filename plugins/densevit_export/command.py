"""Writes a model as a checked file: ONNX, torch.export, LiteRT or ExecuTorch.

The file runs without densevit, from images to boxes and maps. densevit runs it on images of several sizes, compares it
with the model, and removes a file that differs. --evaluate also evaluates both on the validation data.
"""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from densevit.cli.evaluate import MODEL, add_trust, config_of
from densevit.errors import ConfigError
from densevit.paths import user_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from densevit.interfaces import Size
    from densevit.model import InferenceModel
    from densevit_export.exporting import Evaluate

EXAMPLES = """examples:
  densevit export runs/detr_swin                        # runs/detr_swin/model.onnx
  densevit export runs/setr_vit --half                  # runs/setr_vit/model-half.onnx
  densevit export runs/detr_swin --int8                 # runs/detr_swin/model-int8.onnx
  densevit export runs/detr_swin --out detr.onnx --resize
  densevit export runs/detr_swin --resize --postprocess --out program.onnx
  densevit export runs/detr_swin --out web              # a page that predicts in the browser
  densevit export runs/detr_swin --evaluate
  densevit export runs/detr_swin --evaluate data=coco data.root=~/coco
  densevit export hf:facebook/detr-resnet-50 --out detr.pt2
  densevit export runs/detr_swin --out detector.tflite --canvas 320x320"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument(
        "overrides",
        metavar="section.key=value",
        nargs="*",
        help="with --evaluate or --int8: other data, precision ...",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="NAME.onnx, .pt2, .tflite, .pte, or a folder for a page that runs in a browser (default: RUN/model.onnx, "
        "model-half.onnx, model-bf16.pt2 or model-int8.onnx; for hf:ORG/NAME, NAME.onnx ...)",
    )
    halves = parser.add_mutually_exclusive_group()
    halves.add_argument(
        "--half",
        action="store_const",
        const="fp16",
        help="weights and computation of heavy layers in fp16, except in blocks where outputs change; lists the blocks",
    )
    halves.add_argument("--bf16", dest="half", action="store_const", const="bf16", help="the same in bf16 (pt2 only)")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="layers in int8, calibrated on training images; compares metrics and latency with float32 (ONNX only)",
    )
    parser.add_argument(
        "--resize", action="store_true", help="resize images of any size inside the file, as predict does (ONNX only)"
    )
    parser.add_argument(
        "--canvas",
        metavar="HxW",
        type=_size,
        help="pad images inside the file to this size, which makes all sizes inside the model constants: a shorter "
        "export, also for backbones that cannot be exported for varying sizes; tflite and pte files have one",
    )
    parser.add_argument(
        "--postprocess",
        action="store_true",
        help="predict inside the file, as predict does: NMS, merging, masks at the original size, score threshold "
        "(ONNX only)",
    )
    parser.add_argument(
        "--threshold",
        metavar="SCORE",
        type=float,
        help="with --postprocess: the lowest score of objects (default: the score with the largest F1 in the model's "
        "validation; 0.5 for a model without one)",
    )
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="evaluate the model and the file on the validation data, and write both metrics into the file",
    )
    add_trust(parser)


def run(args: Namespace) -> int:
    """Runs the command."""
    from densevit.atomic_io import check_free
    from densevit.errors import counted
    from densevit.evaluation.evaluation_tables import comparison_table
    from densevit.inference.model_loading import load_any
    from densevit.terminal import table
    from densevit_export.browser_page import is_page
    from densevit_export.exporting import export
    from densevit_export.file_plan import FileOptions, check_options
    from densevit_export.source import ExportedFiles

    if ExportedFiles().recognises(args.model):
        raise ConfigError(f"{args.model}: is an exported file. Fix: name the model that it was exported from.")
    out = args.out or _beside(args.model, "int8" if args.int8 else args.half)
    check_options(out, FileOptions(args.half, args.int8, args.resize, args.postprocess))
    check_free(out, "Fix: name a file with --out FILE.")
    if args.threshold is not None and not (args.postprocess or is_page(out)):
        raise ConfigError(
            "--threshold: only files with post-processing select objects. Fix: add --postprocess, or leave it out."
        )
    if args.overrides and not (args.evaluate or args.int8):
        raise ConfigError(
            f"{args.overrides[0]}: overrides are for evaluation. Fix: add --evaluate or --int8, or leave it out."
        )
    model, is_foreign = load_any(args.model, args.trust)
    evaluated = _evaluation(model, is_foreign, args) if args.evaluate or args.int8 else None
    exported = export(
        model,
        out,
        half=args.half,
        resize=args.resize,
        canvas=args.canvas,
        quiet=args.output.quiet,
        evaluate=None if evaluated is None else evaluated.evaluate,
        data=None if evaluated is None else evaluated.data,
        postprocess=args.postprocess,
        threshold=args.threshold,
        int8=None if evaluated is None else evaluated.calibration_images,
        main_metrics=None if evaluated is None else evaluated.main_metrics,
    )
    rows = [[name, f"{difference:.1e}"] for name, difference in exported.differences.items()]
    sizes = ", ".join(f"{height}x{width}" for height, width in exported.sizes)
    if exported.blocks:
        blocks = [[block.name, f"{block.error:.1e}", block.precision] for block in exported.blocks]
        args.output.show(table(blocks, ["block", f"error in {args.half}", "precision"]), "")
    evaluation, quantized = exported.evaluation, exported.quantization
    precision_note = "" if quantized is None else " in float32, before quantisation,"
    args.output.show(
        table(rows, ["output", "difference from the model"]),
        f"{exported.path}:{precision_note} differs from the model by at most {exported.difference:.1e} of an output's "
        f"range (allowed: {exported.limit:.0e}), on images of {sizes}.",
    )
    latency = f"Latency of an image of {sizes.partition(',')[0]} on the CPU"
    if quantized is None:
        args.output.show(f"{latency}: file {exported.file_ms:.1f} ms, model {exported.model_ms:.1f} ms.")
    else:
        args.output.show(
            "",
            f"{latency}, after calibration on {counted(quantized.images, 'image')}",
            table(
                [
                    ["model", f"{exported.model_ms:.1f}", ""],
                    ["float32", f"{quantized.float32_ms:.1f}", f"{quantized.float32_bytes / 1e6:.1f}"],
                    ["int8", f"{quantized.int8_ms:.1f}", f"{quantized.int8_bytes / 1e6:.1f}"],
                ],
                ["", "ms", "MB"],
            ),
        )
    if exported.file_ms >= exported.model_ms:
        args.output.show("The file is no faster than its model on this CPU.")
    if evaluation is not None:
        args.output.show("", comparison_table(*evaluation))
    if is_page(out):
        args.output.show(f"The page: python -m http.server 8000 --directory {out}, then http://localhost:8000")
    args.output.result(
        {
            "file": str(exported.path),
            "difference": exported.difference,
            "limit": exported.limit,
            "differences": exported.differences,
            "sizes": [list(size) for size in exported.sizes],
            "blocks": [block.as_json() for block in exported.blocks],
            "model_ms": exported.model_ms,
            "file_ms": exported.file_ms,
            "classes": {head: [c.name for c in classes] for head, classes in model.classes.items()},
            "thresholds": dict(exported.thresholds),
            **({} if evaluation is None else {"evaluation": evaluation._asdict()}),
            **({} if quantized is None else {"int8": quantized.as_json()}),
        }
    )
    return 0


def _size(text: str) -> "Size":
    try:
        height, width = (int(side) for side in text.split("x"))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a height and width, as in 320x320.") from None
    return height, width


class _Evaluation(NamedTuple):
    """What `export --evaluate` measures: the data and options of `densevit evaluate`.

    data: the data's name.
    """

    evaluate: "Evaluate"
    data: str
    main_metrics: "Mapping[str, bool]"
    calibration_images: "Iterator[Tensor] | None"


def _evaluation(model: "InferenceModel", is_foreign: bool, args: Namespace) -> _Evaluation:
    from densevit.data.data_builder import build_data
    from densevit.evaluation.metric_order import error_metrics, sign
    from densevit.training.loop.evaluator_factory import build_evaluators
    from densevit.training.run.evaluation import EvaluationPlan
    from densevit_export.calibration import calibration_images
    from densevit_export.engine import Engine
    from densevit_export.header import single_pass

    config = config_of(model, is_foreign, args.model, args.overrides)
    trainer = config.trainer.model_copy(update={"precision": "32"})  # the precision of the file
    plan = EvaluationPlan.of(model.with_config(config), build_data(config), trainer)  # raises before the export
    evaluators = build_evaluators(plan.model, plan.data.val, mappings=plan.mappings)

    mains = [f"{head}/{evaluator.main}" for head, evaluator in evaluators.items()]

    def evaluate(model: "InferenceModel") -> dict[str, float]:
        evaluated = model.with_config(single_pass(config) if isinstance(model, Engine) else config)
        return EvaluationPlan.of(evaluated, build_data(config), trainer).run().metrics

    return _Evaluation(
        evaluate,
        f"{config.data.folder_name}-{config.data.val_split}",
        {name: sign(name, error_metrics(evaluators)) < 0 for name in mains},
        calibration_images(plan.data) if args.int8 else None,
    )


def _beside(model: str, precision: str | None) -> Path:
    """The default path of the exported file. precision: fp16, bf16, int8; None: float32."""
    path = user_path(model)
    if path.is_dir():
        path /= "model"
    elif not path.is_file():
        path = Path(path.name.rpartition(":")[2] + ".onnx")  # from hf:ORG/NAME
    ending = {None: ".onnx", "fp16": "-half.onnx", "bf16": "-bf16.pt2", "int8": "-int8.onnx"}[precision]
    return path.with_name(path.with_suffix("").name + ending)
