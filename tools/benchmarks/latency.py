"""Compares the latency of densevit's detectors with that of transformers' own, in PyTorch and in ONNX Runtime.

Batch 1, fp32, random weights, batch norms folded on both sides (`densevit.exporting.deployment`). All models do the
same work, from a uint8 image to boxes and scores, and are exported to ONNX in the same way, at one size. The
rounds of the models of a pair are interleaved, in each runtime separately, so that other load slows both equally. Idle
threads of ONNX Runtime do not spin, because they would slow the other model.

    python tools/benchmarks/latency.py                                 # the pairs of the table PAIRS
    python tools/benchmarks/latency.py coco/deformable_detr_r50        # a recipe of it
    python tools/benchmarks/latency.py my.yaml coco/dfine_s=none       # recipes without a peer
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from latency_peers import CLASSES, PEERS, Detector
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import densevit
from densevit.config.yaml_io import shipped_configs
from densevit.exporting.batch_norm_folding import is_batch_norm
from densevit.exporting.comparison import example_images
from densevit.exporting.deployment import deployable, simplified
from densevit.exporting.graph import ExportedGraph
from densevit.model import DenseModel

PAIRS = {  # densevit's recipe: transformers' model
    "coco/rtdetr_r18": "rtdetr_r18vd",
    "coco/dfine_s": "dfine_small",
    "coco/deformable_detr_r50": "deformable_detr",
}
RUNTIMES = ("PyTorch", "ONNX Runtime")


class Timed(NamedTuple):
    """A model in one runtime. run: computes its outputs once. norms: number of batch norms that are left in it."""

    model: str
    runtime: str
    run: Callable[[], object]
    norms: int


def own_graph(recipe: str) -> nn.Module:
    """The folded model of a recipe, for 80 classes."""
    model: DenseModel = densevit.create_model(
        recipe, classes=[f"class {i}" for i in range(CLASSES)], pretrained=False
    ).model
    return ExportedGraph(deployable(model.cpu().float())).eval()


def peer_graph(name: str, images: Tensor) -> nn.Module:
    """The folded model of transformers."""
    return simplified(Detector(PEERS[name]()), lambda detector: detector(images))


def timed(name: str, graph: nn.Module, images: Tensor, runtimes: Sequence[str], threads: int) -> list[Timed]:
    """The graph in each runtime. Raises SystemExit if the file is wrong."""
    norms = sum(is_batch_norm(module) for module in graph.modules())
    found = []
    with torch.inference_mode():
        expected = {key: value.numpy() for key, value in graph(images).items()}
    if "PyTorch" in runtimes:
        found.append(Timed(name, "PyTorch", torch.inference_mode()(lambda: graph(images)), norms))
    if "ONNX Runtime" in runtimes:
        session = onnx_session(graph, images, list(expected), threads)
        inputs = {"images": images.numpy()}
        for key, value in zip(expected, session.run(list(expected), inputs), strict=True):
            check(name, key, value, expected[key])
        found.append(Timed(name, "ONNX Runtime", lambda: session.run(None, inputs), norms))
    return found


def check(name: str, key: str, value: np.ndarray, expected: np.ndarray) -> None:
    """Raises SystemExit if an output of a file has another shape than the model's, is not finite or has other scores.

    With random weights, the scores of proposals are nearly equal, so that a file may select others. Only the mean of
    the scores is compared therefore; `densevit export` compares each query.
    """
    off = abs(float(value.mean()) - float(expected.mean())) if key == "scores" else 0.0
    if value.shape != expected.shape or not np.isfinite(value).all() or off > 1e-2:
        raise SystemExit(f"{name}: {key} of the ONNX file differ from the model's.")


def onnx_session(graph: nn.Module, images: Tensor, names: list[str], threads: int) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime on this number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.onnx"
        program = torch.export.export(graph, (images,), strict=False)
        exported = torch.onnx.export(
            program, (), dynamo=True, input_names=["images"], output_names=names, verbose=False
        )
        assert exported is not None
        exported.save(path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(models: Sequence[Timed], rounds: int) -> list[list[float]]:
    """Milliseconds of each round of each model, interleaved, after a warm-up."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(rounds + 1):
        for own, model in zip(times, models, strict=True):
            start = time.perf_counter()
            model.run()
            own.append(1000 * (time.perf_counter() - start))
    return [own[1:] for own in times]


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


def rows(recipe: str, peer: str | None, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """The rows of a pair: model, runtime, median ms, and the median of the rounds' ratios of the peer to densevit."""
    torch.manual_seed(0)
    images = torch.from_numpy(example_images((options.size, options.size), 1, 0))
    models = timed(recipe, own_graph(recipe), images, options.runtimes, options.threads)
    if peer is not None:
        name = f"transformers {peer}"
        models += timed(name, peer_graph(peer, images), images, options.runtimes, options.threads)
    result: list[tuple[str, ...]] = []
    for runtime in options.runtimes:
        compared = [model for model in models if model.runtime == runtime]  # densevit's first
        times = measure(compared, options.rounds)
        for model, own in zip(compared, times, strict=True):
            ratio = statistics.median(a / b for a, b in zip(own, times[0], strict=True))
            left = f" ({model.norms} batch norms)" if model.norms else ""
            result.append((model.model + left, runtime, f"{statistics.median(own):.1f}", f"{ratio:.2f}"))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", help="recipes, each with its peer of the table or as RECIPE=PEER")
    parser.add_argument("--size", type=int, default=640, help="side of the image; %(default)s")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved repetitions; %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both runtimes; %(default)s")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="runtimes to compare; all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(
        title=f"Latency at batch 1, {options.size} x {options.size}, fp32, CPU with {options.threads} threads",
        caption=f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}; median of {options.rounds} "
        "interleaved rounds; ratio to densevit's recipe in the same runtime, above 1 is slower",
    )
    for heading in ("model", "runtime"):
        table.add_column(heading)
    for heading in ("ms", "ratio"):
        table.add_column(heading, justify="right")
    for recipe, peer in pairs_of(options.recipes).items():
        for row in rows(recipe, peer, options):
            table.add_row(*row)
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
