"""Writes a model as a file that runs without densevit: ONNX or torch.export, from uint8 images to boxes and maps.

The file is run on images of several sizes and compared with the model; a file that differs is not written.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from densevit.cli.evaluate import MODEL, add_trust

EXAMPLES = """examples:
  densevit export runs/detr_swin                        # model.onnx
  densevit export runs/setr_vit --out setr.onnx --half
  densevit export runs/detr_swin --out detr.onnx --resize
  densevit export hf:facebook/detr-resnet-50 --out detr.pt2"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--out", metavar="FILE", type=Path, default=Path("model.onnx"), help="NAME.onnx or NAME.pt2 (%(default)s)"
    )
    parser.add_argument("--half", action="store_true", help="weights and computation in float16")
    parser.add_argument(
        "--resize", action="store_true", help="resize images of any size inside the file, as predict does (ONNX only)"
    )
    add_trust(parser)


def run(args: Namespace) -> int:
    """Runs the command."""
    from rich.table import Table

    from densevit.atomic_io import check_free
    from densevit.exporting.exporting import export
    from densevit.exporting.files import check_format
    from densevit.inference.loading import load

    check_format(args.out, args.resize)
    check_free(args.out)
    exported = export(load(args.model, trust=args.trust), args.out, half=args.half, resize=args.resize)
    table = Table("output", "difference from the model", box=None)
    for name, difference in exported.differences.items():
        table.add_row(name, f"{difference:.1e}")
    sizes = ", ".join(f"{height}x{width}" for height, width in exported.sizes)
    args.output.show(
        table,
        f"{exported.path}: at most {exported.difference:.1e} of an output's range from the model's (allowed: "
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
