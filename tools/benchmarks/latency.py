"""Compares the latency of detectors of densevit and transformers, in PyTorch and in ONNX Runtime.

Batch 1, fp32, random weights, batch norms folded on both sides (`densevit_export.deployment`). All models do the
same work, from a uint8 image to boxes and scores, and are exported to ONNX in the same way, at one size. The
rounds of a pair are interleaved, in each runtime separately. Idle threads of ONNX Runtime do not spin, because they
would slow the other model.

    python tools/benchmarks/latency.py                                 # the pairs of the table PAIRS
    python tools/benchmarks/latency.py coco/deformable_detr_r50        # a recipe of it
    python tools/benchmarks/latency.py my.yaml coco/dfine_s=none       # recipes without a peer
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from interleaved import Run, measure, milliseconds, parsed, parser, ratio, show, table
from latency_peers import CLASSES, PEERS, Detector
from torch import Tensor, nn

import densevit
from densevit.config.yaml_io import shipped_configs
from densevit_export.deployment import deployable, simplified
from densevit_export.file_comparison import example_images
from densevit_export.graph import ExportedGraph

PAIRS = {  # densevit's recipe: transformers' model
    "coco/rtdetr_r18": "rtdetr_r18vd",
    "coco/dfine_s": "dfine_small",
    "coco/deformable_detr_r50": "deformable_detr",
}


def densevit_graph(recipe: str) -> nn.Module:
    """The folded model of a recipe, for 80 classes."""
    model = densevit.create_model(recipe, classes=[f"class {i}" for i in range(CLASSES)], pretrained=False)
    return ExportedGraph(deployable(model.cpu().float())).eval()


def peer_graph(name: str, images: Tensor) -> nn.Module:
    """The folded model of transformers."""
    return simplified(Detector(PEERS[name]()), lambda detector: detector(images))


def runs_of(name: str, graph: nn.Module, images: Tensor, threads: int) -> tuple[Run, Run]:
    """The graph in each runtime. Raises SystemExit if the ONNX file is wrong."""
    with torch.inference_mode():
        expected = {key: value.numpy() for key, value in graph(images).items()}
    session = onnx_session(graph, {"images": images}, list(expected), threads)
    inputs = {"images": images.numpy()}
    for key, value in zip(expected, session.run(list(expected), inputs), strict=True):
        check(name, key, value, expected[key])
    return torch.inference_mode()(lambda: graph(images)), lambda: session.run(None, inputs)


def check(name: str, key: str, value: np.ndarray, expected: np.ndarray) -> None:
    """Raises SystemExit if an output of a file has another shape than the model's, is not finite or has other scores.

    With random weights, the scores of proposals are nearly equal, so that a file may select others. Only the mean of
    the scores is compared therefore; `densevit export` compares each query.
    """
    off = abs(float(value.mean()) - float(expected.mean())) if key == "scores" else 0.0
    if value.shape != expected.shape or not np.isfinite(value).all() or off > 1e-2:
        raise SystemExit(f"{name}: {key} of the ONNX file differ from the model's.")


def onnx_session(
    graph: nn.Module, inputs: dict[str, Tensor], names: list[str], threads: int
) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime on this number of threads. inputs: the example
    inputs by name. names: the names of the outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.onnx"
        program = torch.export.export(graph, (*inputs.values(),), strict=False)
        exported = torch.onnx.export(program, (), dynamo=True, input_names=[*inputs], output_names=names, verbose=False)
        assert exported is not None
        exported.save(path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def pairs_of(requested: Sequence[str]) -> dict[str, str | None]:
    """The peer of each recipe. requested: RECIPE or RECIPE=PEER; none: the shipped recipes of `PAIRS`."""
    if not requested:
        return {recipe: peer for recipe, peer in PAIRS.items() if recipe in shipped_configs()}
    pairs: dict[str, str | None] = {}
    for text in requested:
        recipe, equals, peer = text.partition("=")
        name = peer if equals else PAIRS.get(recipe, "none")
        if name not in (*PEERS, "none"):
            raise SystemExit(f"{text}: there is no peer {name!r}. Known: {', '.join(PEERS)}, none.")
        pairs[recipe] = None if name == "none" else name
    return pairs


def main() -> None:
    options = parser(__doc__, rounds=20)
    options.add_argument("recipes", nargs="*", help="recipes, each with its peer of the table or as RECIPE=PEER")
    options.add_argument("--size", type=int, default=640, help="side of the image; %(default)s")
    options.set_defaults(device="cpu")
    args = parsed(options)
    title = f"Latency at batch 1, {args.size} x {args.size}, fp32"
    headings = ("model", "runtime", "ms", "times densevit's")
    comparison = table(title, args, *headings, libraries=("onnxruntime", "transformers"))
    images = torch.from_numpy(example_images((args.size, args.size), 1, 0))
    for recipe, peer in pairs_of(args.recipes).items():
        graphs = {recipe: densevit_graph(recipe)} | ({f"transformers {peer}": peer_graph(peer, images)} if peer else {})
        runs = {name: runs_of(name, graph, images, args.threads) for name, graph in graphs.items()}
        for i, runtime in enumerate(("PyTorch", "ONNX Runtime")):
            times = measure({name: run[i] for name, run in runs.items()}, args.rounds)
            for name in times:
                comparison.add_row(name, runtime, milliseconds(times, name), ratio(times, name, recipe))
    show(comparison)


if __name__ == "__main__":
    main()
