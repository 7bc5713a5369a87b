"""Heads by formats of `densevit export`: difference from the model, latency and size, or why a format refuses a head.

    python tools/benchmarks/export_targets.py --formats onnx pt2

Run it for each format in an environment with its package (docs/development/export.md). The models have random weights,
a ResNet-18 or a Swin-nano for images of 128x160, and 20 classes.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import densevit

CANVAS = (128, 160)
SMALL: Any = {"transformer": {"width": 128, "num_heads": 4, "decoder_layers": 3, "feedforward": 512}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "setr": ({"name": "swin", "variant": "nano"}, {"name": "setr", "branch_width": 64}),
    "dpt": ({"name": "resnet", "depth": 18}, {"name": "dpt", "width": 64}),
    "linear": ({"name": "resnet", "depth": 18}, {"name": "linear"}),
    "one_stage": ({"name": "resnet", "depth": 18}, {"name": "one_stage"}),
    "detr": ({"name": "resnet", "depth": 18}, {"name": "detr", "num_queries": 50}),
    "dfine": (
        {"name": "resnet", "depth": 18},
        {"name": "dfine", "num_queries": 50, "encoder": {"width": 128, "feedforward": 256, "expansion": 0.5}} | SMALL,
    ),
    "mask2former": ({"name": "resnet", "depth": 18}, {"name": "mask2former", "num_queries": 20} | SMALL),
}


def row(case: str, suffix: str, half: bool, folder: Path) -> list[str]:
    """The cells of a table: difference, milliseconds of the model and of the file, megabytes; or the reason."""
    torch.manual_seed(0)
    backbone, head = CASES[case]
    model = densevit.create_model(backbone, {"head": head}, None if case == "dpt" else [f"c{i}" for i in range(20)])
    path = folder / f"{case}.{suffix}"
    try:
        exported = densevit.export(model, path, canvas=CANVAS, half="fp16" if half else None, quiet=True)
    except densevit.DensevitError as error:
        return [str(error).replace("|", "/").splitlines()[0][:200]]
    milliseconds = [f"{exported.model_ms:.0f}", f"{exported.file_ms:.0f}"]
    return [f"{exported.difference:.0e}", *milliseconds, f"{path.stat().st_size / 1e6:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=["onnx"], help="onnx, pt2, tflite or pte")
    parser.add_argument("--heads", nargs="+", default=[*CASES])
    parser.add_argument("--half", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for case in args.heads:
            for suffix in args.formats:
                cells = [case, suffix + " fp16" * args.half, *row(case, suffix, args.half, Path(folder))]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
