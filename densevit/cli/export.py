"""Writes a model as a checked ONNX or torch.export file.

The file runs without densevit, from uint8 images to boxes and maps. It is run on images of several sizes and compared
with the model; a file that differs is not written.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from densevit.cli.evaluate import MODEL, add_trust

EXAMPLES = """examples:
  densevit export runs/detr_swin                        # runs/detr_swin/model.onnx
  densevit export runs/setr_vit --out setr.onnx --half
  densevit export runs/detr_swin --out detr.onnx --resize
  densevit export hf:facebook/detr-resnet-50 --out detr.pt2"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="NAME.onnx or NAME.pt2 (beside the model: RUN/model.onnx; of hf:ORG/NAME, NAME.onnx)",
    )
    parser.add_argument("--half", action="store_true", help="weights and computation in float16")
    parser.add_argument(
        "--resize", action="store_true", help="resize images of any size inside the file, as predict does (ONNX only)"
    )
    add_trust(parser)


def run(args: Namespace) -> int:
    """Runs the command."""
    from densevit.atomic_io import check_free
    from densevit.exporting.exporting import export
    from densevit.exporting.files import check_format
    from densevit.inference.loading import load
    from densevit.terminal import table

    out = args.out or _beside(args.model)
    check_format(out, args.resize)
    check_free(out)
    exported = export(load(args.model, trust=args.trust), out, args.half, args.resize, args.output.quiet)
    rows = [[name, f"{difference:.1e}"] for name, difference in exported.differences.items()]
    sizes = ", ".join(f"{height}x{width}" for height, width in exported.sizes)
    args.output.show(
        table(rows, ["output", "difference from the model"]),
        f"{exported.path}: differs from the model by at most {exported.difference:.1e} of an output's range (allowed: "
        f"{exported.limit:.0e}), on images of {sizes}.",
        f"Latency of an image of {sizes.partition(',')[0]} on the CPU: file {exported.file_ms:.1f} ms, model "
        f"{exported.model_ms:.1f} ms.",
    )
    args.output.result(
        {
            "file": str(exported.path),
            "difference": exported.difference,
            "limit": exported.limit,
            "differences": exported.differences,
            "sizes": [list(size) for size in exported.sizes],
            "model_ms": exported.model_ms,
            "file_ms": exported.file_ms,
        }
    )
    return 0


def _beside(model: str) -> Path:
    """The default path of the exported file."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path / "model.onnx"
    return path.with_suffix(".onnx") if path.is_file() else Path(f"{path.name.rpartition(':')[2]}.onnx")
