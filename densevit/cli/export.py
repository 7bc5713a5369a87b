"""Writes a model as a checked ONNX or torch.export file.

The file runs without densevit, from uint8 images to boxes and maps. It is run on images of several sizes and compared
with the model; a file that differs is not written. --evaluate also evaluates both on the validation data.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.cli.evaluate import MODEL, add_trust, config_of
from densevit.errors import ConfigError

if TYPE_CHECKING:
    from densevit.exporting.exporting import Evaluate
    from densevit.inference.loading import LoadedModel

EXAMPLES = """examples:
  densevit export runs/detr_swin                        # runs/detr_swin/model.onnx
  densevit export runs/setr_vit --out setr.onnx --half
  densevit export runs/detr_swin --out detr.onnx --resize
  densevit export runs/detr_swin --resize --postprocess --out program.onnx
  densevit export runs/detr_swin --evaluate
  densevit export runs/detr_swin --evaluate data=coco data.root=~/coco
  densevit export hf:facebook/detr-resnet-50 --out detr.pt2"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument(
        "overrides",
        metavar="section.key=value",
        nargs="*",
        help="with --evaluate: other data, precision ...",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="NAME.onnx or NAME.pt2 (beside the model: RUN/model.onnx; of hf:ORG/NAME, NAME.onnx)",
    )
    halves = parser.add_mutually_exclusive_group()
    halves.add_argument(
        "--half",
        action="store_const",
        const="fp16",
        help="weights and computation of heavy layers in fp16, except in blocks where outputs change; shows the blocks",
    )
    halves.add_argument("--bf16", dest="half", action="store_const", const="bf16", help="the same in bf16 (pt2 only)")
    parser.add_argument(
        "--resize", action="store_true", help="resize images of any size inside the file, as predict does (ONNX only)"
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
        help="evaluate the model and the file on the validation data, and write the metrics of both into the file",
    )
    add_trust(parser)


def run(args: Namespace) -> int:
    """Runs the command."""
    from densevit.atomic_io import check_free
    from densevit.exporting import postprocessing
    from densevit.exporting.exporting import export
    from densevit.exporting.files import check_format
    from densevit.inference.loading import load_any
    from densevit.inference.predictor import Predictor
    from densevit.terminal import table
    from densevit.visualization.evaluation_tables import comparison_table

    out = args.out or _beside(args.model)
    check_format(out, args.resize)
    check_free(out)
    if args.postprocess:
        postprocessing.check_format(out)
    elif args.threshold is not None:
        raise ConfigError("--threshold is for files that select objects. Fix: add --postprocess, or leave it out.")
    if args.overrides and not args.evaluate:
        raise ConfigError(f"{args.overrides[0]}: overrides are for evaluation. Fix: add --evaluate, or leave it out.")
    loaded = load_any(args.model, args.trust)
    evaluate, data = _evaluation(loaded, args) if args.evaluate else (None, None)
    predictor = Predictor(loaded.model, loaded.sections)
    exported = export(
        predictor,
        out,
        half=args.half,
        resize=args.resize,
        quiet=args.output.quiet,
        evaluate=evaluate,
        data=data,
        postprocess=args.postprocess,
        threshold=args.threshold,
    )
    rows = [[name, f"{difference:.1e}"] for name, difference in exported.differences.items()]
    sizes = ", ".join(f"{height}x{width}" for height, width in exported.sizes)
    if exported.blocks:
        blocks = [[block.name, f"{block.error:.1e}", block.precision] for block in exported.blocks]
        args.output.show(table(blocks, ["block", f"error in {args.half}", "precision"]), "")
    args.output.show(
        table(rows, ["output", "difference from the model"]),
        f"{exported.path}: differs from the model by at most {exported.difference:.1e} of an output's range (allowed: "
        f"{exported.limit:.0e}), on images of {sizes}.",
        f"Latency of an image of {sizes.partition(',')[0]} on the CPU: file {exported.file_ms:.1f} ms, model "
        f"{exported.model_ms:.1f} ms.",
    )
    evaluation = exported.evaluation
    if evaluation is not None:
        args.output.show("", comparison_table(*evaluation))
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
            "classes": {head: [one.name for one in classes] for head, classes in predictor.classes.items()},
            **({} if evaluation is None else {"evaluation": evaluation._asdict()}),
        }
    )
    return 0


def _evaluation(loaded: "LoadedModel", args: Namespace) -> "tuple[Evaluate, str]":
    """Evaluates a predictor as `densevit evaluate` does, and the name of the data."""
    from densevit import config as configs
    from densevit.data.build import build_data
    from densevit.inference.file_model import FileModel
    from densevit.inference.predictor import Predictor
    from densevit.training.run.evaluation import EvaluationPlan

    config = config_of(loaded, args.model, args.overrides)
    EvaluationPlan.of(Predictor(loaded.model, config), build_data(config), config.trainer)  # raises before the export

    def evaluate(predictor: Predictor) -> dict[str, float]:
        own = configs.single_pass(config) if isinstance(predictor.model, FileModel) else config
        resize = predictor.resize if predictor.resize_is_replaced else None
        plan = EvaluationPlan.of(Predictor(predictor.model, own, resize=resize), build_data(config), config.trainer)
        return plan.run().metrics

    return evaluate, f"{config.data.folder_name}-{config.data.split}"


def _beside(model: str) -> Path:
    """The default path of the exported file."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path / "model.onnx"
    return path.with_suffix(".onnx") if path.is_file() else Path(f"{path.name.rpartition(':')[2]}.onnx")
