"""Compares the latency of one file of several heads with one file per head, in ONNX Runtime.

Batch 1, fp32, batch norms folded, one size. The rounds of all files are interleaved.

    python tools/benchmarks/one_file.py                       # scenes/multitask_swin with random weights
    python tools/benchmarks/one_file.py joined.safetensors    # a run folder, a model file or a recipe
"""

from pathlib import Path

import torch
from interleaved import Run, measure, milliseconds, parsed, parser, ratio, show, table
from latency import onnx_session
from torch import Tensor, nn

import densevit
from densevit.model import DenseModel
from densevit_export.deployment import deployable
from densevit_export.file_comparison import example_images
from densevit_export.graph import ExportedGraph

FILE, SEPARATE = "one file", "one file per head, all"


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
    runs = {FILE: onnx_run(ExportedGraph(model).eval(), images, args.threads)}
    for name in model.heads:
        runs[name] = onnx_run(ExportedGraph(model.with_heads([name])).eval(), images, args.threads)
    times = measure(runs, args.rounds)
    times[SEPARATE] = [sum(seconds) for seconds in zip(*(times[name] for name in model.heads), strict=True)]
    title = f"Latency of {args.model} at batch 1, {args.size} x {args.size}, fp32"
    comparison = table(title, args, "file", "ms", "one file's time / this", libraries=("onnxruntime",))
    for name in times:
        comparison.add_row(name, milliseconds(times, name), ratio(times, FILE, name))
    show(comparison)


if __name__ == "__main__":
    main()
