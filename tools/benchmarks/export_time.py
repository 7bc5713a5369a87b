"""Time of `densevit export --resize --postprocess`: ten backbones of timm under three heads of the recipes in start/.

    python tools/benchmarks/export_time.py                                             # the whole table
    python tools/benchmarks/export_time.py tf_efficientnet_lite0 --heads detector      # a part of it

Weights are random. Seconds are of CPU time, which another load changes less than the elapsed time, from the built model
to the checked file; the time of the imports is not included. A backbone that is refused has the first words of the
error. Each export is a process of its own, because a process exports its second model faster.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import densevit
from densevit.config.yaml_io import shipped_configs
from densevit.errors import DensevitError

BACKBONES = (
    "tf_efficientnet_lite0",
    "tf_mixnet_s",
    "tf_mobilenetv3_small_minimal_100",
    "mobilenetv4_conv_small",
    "resnetv2_50x1_bit",
    "regnetx_002",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "fastvit_t8",
    "swin_tiny_patch4_window7_224",
)
HEADS = {"detector": "detection", "semantic": "segmentation", "depth": "depth"}  # recipe: head
RESNET = "resnet18"  # densevit's own, with which the others are compared
_LIMIT_S = 900


def exported(head: str, backbone: str) -> str:
    """Exports a recipe of start/ on a backbone. Returns CPU seconds, nodes and the largest difference."""
    import onnx

    section = "{name: resnet, depth: 18}" if backbone == RESNET else f"{{name: timm, model: {backbone}}}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(f"base: {shipped_configs()[f'start/{head}']}\nbackbone: {section}\n")
        torch.manual_seed(0)
        classes = {HEADS[head]: [] if head == "depth" else ["cat", "dog"]}
        model = densevit.create_model(config, classes=classes, pretrained=False)
        start = time.process_time()
        try:
            result = densevit.export(model, Path(folder) / "x.onnx", resize=True, postprocess=True, quiet=True)
        except DensevitError as error:
            return f"{time.process_time() - start:.0f} | refused: {' '.join(str(error).split()[:6])} | "
        seconds = time.process_time() - start
        nodes = len(onnx.load(result.path, load_external_data=False).graph.node)
    return f"{seconds:.0f} | {nodes} | {result.difference:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbones", nargs="*", default=[RESNET, *BACKBONES])
    parser.add_argument("--heads", nargs="+", default=[*HEADS], choices=HEADS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # prints one cell
    options = parser.parse_args()
    if options.one:
        print(exported(*options.heads, *options.backbones))
        return
    table = Table("backbone", "head", "CPU seconds", "nodes", "difference")
    for backbone in options.backbones:
        for head in options.heads:
            command = [sys.executable, __file__, backbone, "--heads", head, "--one"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
                cells = (done.stdout or done.stderr).strip().splitlines()[-1].split(" | ")
            except subprocess.TimeoutExpired:
                cells = [f"more than {_LIMIT_S}"]
            table.add_row(backbone, head, *(cells[:3]))
    Console().print(table)


if __name__ == "__main__":
    main()
