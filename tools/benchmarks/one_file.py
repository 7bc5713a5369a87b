"""Compares the latency of one file of several heads with its parts, and with one file per head, in ONNX Runtime.

Batch 1, fp32, batch norms folded, one size. The parts are the backbone alone, from the image to its features, and each
head alone, from the features to its outputs. The rounds of all files are interleaved.

    python tools/benchmarks/one_file.py                       # scenes/multitask_swin with random weights
    python tools/benchmarks/one_file.py joined.safetensors    # a run folder, a model file or a recipe
"""

from pathlib import Path

import torch
from interleaved import Run, measure, milliseconds, parsed, parser, ratio, show, table
from latency import onnx_session
from torch import Tensor, nn

import densevit
from densevit.interfaces import Batch, Size
from densevit.layers.precision import in_float32
from densevit.model import DenseModel
from densevit_export.deployment import deployable
from densevit_export.exported_outputs import exported
from densevit_export.file_comparison import example_images
from densevit_export.graph import ExportedGraph

FILE, PARTS, SEPARATE = "one file", "backbone + heads, each alone", "one file per head, all"


class BackboneAlone(nn.Module):
    """The features of an image (B, 3, H, W) uint8, by name."""

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        batch: Batch = {
            "images": images,
            "padding_mask": torch.zeros_like(images[:, 0], dtype=torch.bool),
            "targets": [],
        }
        return {f"feature_{i}": x for i, x in enumerate(self.model.encode(batch, [*self.model.heads]).features)}


class HeadAlone(nn.Module):
    """The outputs of a head and its neck for features of an image of `size` (H, W)."""

    def __init__(self, model: DenseModel, name: str, size: Size) -> None:
        super().__init__()
        self.model, self.name, self.size = model, name, size

    def forward(self, *features: Tensor) -> dict[str, Tensor]:
        head, mask = self.model.heads[self.name], torch.zeros(1, *self.size, dtype=torch.bool)
        outputs = head(self.model.head_inputs(self.name, [*features], mask), mask)
        return exported(head, in_float32(outputs), self.size)


def onnx_run(graph: nn.Module, inputs: dict[str, Tensor], threads: int) -> Run:
    """The graph in ONNX Runtime."""
    with torch.no_grad():
        session = onnx_session(graph, inputs, [*graph(*inputs.values())], threads)
    used = {value.name: inputs[value.name].numpy() for value in session.get_inputs()}
    return lambda: session.run(None, used)


def main() -> None:
    options = parser(__doc__, rounds=30)
    options.add_argument("model", nargs="?", default="scenes/multitask_swin")
    options.add_argument("--size", type=int, default=320, help="side of the image; %(default)s")
    options.set_defaults(device="cpu")
    args = parsed(options)
    is_file = Path(args.model).exists()
    loaded = densevit.load(args.model) if is_file else densevit.create_model(args.model, pretrained=False)
    model: DenseModel = deployable(loaded.cpu().float())
    size = (args.size, args.size)
    images = {"images": torch.from_numpy(example_images(size, 1, 0))}
    with torch.no_grad():
        features = BackboneAlone(model).eval()(*images.values())
    runs = {FILE: onnx_run(ExportedGraph(model).eval(), images, args.threads)}
    runs["backbone"] = onnx_run(BackboneAlone(model).eval(), images, args.threads)
    for name in model.heads:
        runs[f"{name} alone"] = onnx_run(HeadAlone(model, name, size).eval(), features, args.threads)
        runs[f"{name}, own file"] = onnx_run(ExportedGraph(model.with_heads([name])).eval(), images, args.threads)
    times = measure(runs, args.rounds)
    parts = ["backbone", *(f"{name} alone" for name in model.heads)]
    files = [f"{name}, own file" for name in model.heads]
    for total, names in ((PARTS, parts), (SEPARATE, files)):
        times[total] = [sum(seconds) for seconds in zip(*(times[name] for name in names), strict=True)]
    title = f"Latency of {args.model} at batch 1, {args.size} x {args.size}, fp32"
    comparison = table(title, args, "file", "ms", "one file's time / this", libraries=("onnxruntime",))
    for name in (FILE, *parts, PARTS, *files, SEPARATE):
        comparison.add_row(name, milliseconds(times, name), ratio(times, FILE, name))
    show(comparison)


if __name__ == "__main__":
    main()
