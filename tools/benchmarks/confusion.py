"""Compares SemanticSegmentation with numpy's bincount and torchmetrics on the same label maps, in one run.

    python tools/benchmarks/confusion.py --classes 19 --height 1024 --width 2048

Maps consist of patches of one class, like the regions of an image. A tenth of the predicted pixels are wrong, along
edges and at random, and some pixels are ignored. A second kind of map is noise, which causes more cache misses. All
implementations process the same images one at a time and must give the same mIoU. Rounds are interleaved, so that other
load on the machine slows all of them equally.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import IGNORE, Class

Pair = tuple[Tensor, Tensor]  # truth and prediction, (H, W) uint8


def regions(height: int, width: int, classes: int, rng: np.random.Generator) -> Pair:
    """Patches of 64 pixels; some classes are much more frequent. The predicted patches are shifted by a few pixels."""
    share = 1 / np.arange(1, classes + 1)
    coarse = rng.choice(classes, (height // 64 + 2, width // 64 + 2), p=share / share.sum()).astype(np.uint8)
    fine = coarse.repeat(64, 0).repeat(64, 1)
    truth, found = fine[:height, :width].copy(), fine[3 : height + 3, 3 : width + 3].copy()
    truth[: height // 20] = IGNORE
    wrong = rng.random(found.shape) < 0.02
    found[wrong] = rng.integers(0, classes, int(wrong.sum()))
    return torch.from_numpy(truth), torch.from_numpy(found)


def noise(height: int, width: int, classes: int, rng: np.random.Generator) -> Pair:
    truth, found = (rng.integers(0, classes, (height, width)).astype(np.uint8) for _ in range(2))
    truth[: height // 20] = IGNORE
    return torch.from_numpy(truth), torch.from_numpy(found)


def with_densevit(pairs: list[Pair], classes: int) -> float:
    evaluator = SemanticSegmentation([Class(str(n), n, (0, 0, 0)) for n in range(classes)])
    for image_id, (truth, found) in enumerate(pairs):
        evaluator.update([{"semantic": found}], [{"image_id": image_id, "semantic": truth}])
    return evaluator.compute()["mIoU"]


def with_bincount(pairs: list[Pair], classes: int) -> float:
    """The usual implementation: one code per labelled pixel."""
    counts = np.zeros((classes, classes), np.int64)
    for truth, found in ((truth.cpu().numpy(), found.cpu().numpy()) for truth, found in pairs):
        labelled = truth != IGNORE
        codes = classes * truth[labelled].astype(np.int64) + found[labelled]
        counts += np.bincount(codes, minlength=classes**2).reshape(classes, classes)
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    return float((hits[union > 0] / union[union > 0]).mean())


def with_torchmetrics(pairs: list[Pair], classes: int) -> float:
    from torchmetrics.classification import MulticlassJaccardIndex

    metric = MulticlassJaccardIndex(classes, ignore_index=IGNORE, validate_args=False).to(pairs[0][0].device)
    for truth, found in pairs:
        metric.update(found[None], truth[None])
    return float(metric.compute())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4, help="%(default)s")
    parser.add_argument("--classes", type=int, default=19, help="%(default)s")
    parser.add_argument("--height", type=int, default=1024, help="%(default)s")
    parser.add_argument("--width", type=int, default=2048, help="%(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved repetitions; %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's CPU threads; %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    ways: dict[str, Callable[[list[Pair], int], float]] = {"densevit": with_densevit, "numpy's bincount": with_bincount}
    if importlib.util.find_spec("torchmetrics"):
        ways["torchmetrics"] = with_torchmetrics
    table = Table(
        title=f"{options.images} maps of {options.height} x {options.width}, {options.classes} classes",
        caption=f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads; median of "
        f"{options.rounds} interleaved rounds; ratio: median of the rounds' ratios",
    )
    for heading in ("maps", "implementation", "ms per image", "times densevit's", "least ms", "mIoU"):
        table.add_column(heading, justify="left" if heading in ("maps", "way") else "right")
    for make in (regions, noise):
        rng = np.random.default_rng(0)
        made = [make(options.height, options.width, options.classes, rng) for _ in range(options.images)]
        pairs = [(truth.to(options.device), found.to(options.device)) for truth, found in made]
        scores = {name: way(pairs, options.classes) for name, way in ways.items()}
        if max(scores.values()) - min(scores.values()) > 1e-6:  # torchmetrics computes in float32
            raise SystemExit(f"The implementations differ: {scores}.")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way(pairs, options.classes)
                seconds[name].append((time.perf_counter() - start) / options.images)
        for name, times in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(times, seconds["densevit"], strict=True))
            figures = (1e3 * statistics.median(times), ratio, 1e3 * min(times))
            label = make.__name__ if name == "densevit" else ""
            table.add_row(label, name, *(f"{figure:.2f}" for figure in figures), f"{scores[name]:.7f}")
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
