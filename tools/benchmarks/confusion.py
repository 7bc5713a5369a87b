"""Compares SemanticSegmentation with numpy's bincount and torchmetrics on the same label maps, in one run.

    python tools/benchmarks/confusion.py --classes 19 --height 1024 --width 2048

Maps consist of patches of one class, like the regions of an image. A tenth of the predicted pixels are wrong, along
edges and at random, and some pixels are ignored. A second kind of map is noise, which causes more cache misses. All
implementations process the same images one at a time and must give the same mIoU.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from interleaved import measure, milliseconds, parsed, parser, ratio, show, table
from torch import Tensor

from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import IGNORE, Class

Pair = tuple[Tensor, Tensor]  # truth and prediction, (H, W) uint8


def regions(height: int, width: int, classes: int, rng: np.random.Generator) -> Pair:
    """Patches of 64 pixels; some classes are much more frequent. The predicted patches are shifted by a few pixels."""
    share = 1 / np.arange(1, classes + 1)
    coarse = rng.choice(classes, (height // 64 + 2, width // 64 + 2), p=share / share.sum()).astype(np.uint8)
    fine = coarse.repeat(64, 0).repeat(64, 1)
    truth, predicted = fine[:height, :width].copy(), fine[3 : height + 3, 3 : width + 3].copy()
    truth[: height // 20] = IGNORE
    wrong = rng.random(predicted.shape) < 0.02
    predicted[wrong] = rng.integers(0, classes, int(wrong.sum()))
    return torch.from_numpy(truth), torch.from_numpy(predicted)


def noise(height: int, width: int, classes: int, rng: np.random.Generator) -> Pair:
    truth, predicted = (rng.integers(0, classes, (height, width)).astype(np.uint8) for _ in range(2))
    truth[: height // 20] = IGNORE
    return torch.from_numpy(truth), torch.from_numpy(predicted)


def with_densevit(pairs: list[Pair], classes: int) -> float:
    evaluator = SemanticSegmentation([Class(str(n), n, (0, 0, 0)) for n in range(classes)])
    for image_id, (truth, predicted) in enumerate(pairs):
        evaluator.update([{"semantic": predicted}], [{"image_id": image_id, "semantic": truth}])
    return evaluator.metrics()["mIoU"]


def with_bincount(pairs: list[Pair], classes: int) -> float:
    """The usual implementation: one code per labelled pixel."""
    counts = np.zeros((classes, classes), np.int64)
    for truth, predicted in ((truth.cpu().numpy(), predicted.cpu().numpy()) for truth, predicted in pairs):
        labelled = truth != IGNORE
        codes = classes * truth[labelled].astype(np.int64) + predicted[labelled]
        counts += np.bincount(codes, minlength=classes**2).reshape(classes, classes)
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    return float((hits[union > 0] / union[union > 0]).mean())


def with_torchmetrics(pairs: list[Pair], classes: int) -> float:
    from torchmetrics.classification import MulticlassJaccardIndex

    metric = MulticlassJaccardIndex(classes, ignore_index=IGNORE, validate_args=False).to(pairs[0][0].device)
    for truth, predicted in pairs:
        metric.update(predicted[None], truth[None])
    return float(metric.compute())


def main() -> None:
    options = parser(__doc__, rounds=9)
    options.add_argument("--images", type=int, default=4, help="%(default)s")
    options.add_argument("--classes", type=int, default=19, help="%(default)s")
    options.add_argument("--height", type=int, default=1024, help="%(default)s")
    options.add_argument("--width", type=int, default=2048, help="%(default)s")
    args = parsed(options)
    ways: dict[str, Callable[[list[Pair], int], float]] = {"densevit": with_densevit, "numpy's bincount": with_bincount}
    if importlib.util.find_spec("torchmetrics"):
        ways["torchmetrics"] = with_torchmetrics
    title = f"{args.images} maps of {args.height} x {args.width}, {args.classes} classes"
    comparison = table(title, args, "implementation", "maps", "ms", "times densevit's", "mIoU")
    for make in (regions, noise):
        rng = np.random.default_rng(0)
        made = [make(args.height, args.width, args.classes, rng) for _ in range(args.images)]
        pairs = [(truth.to(args.device), predicted.to(args.device)) for truth, predicted in made]
        scores = {name: way(pairs, args.classes) for name, way in ways.items()}
        if max(scores.values()) - min(scores.values()) > 1e-6:  # torchmetrics computes in float32
            raise SystemExit(f"The implementations differ: {scores}.")
        times = measure({name: partial(way, pairs, args.classes) for name, way in ways.items()}, args.rounds)
        for name in ways:
            figures = milliseconds(times, name), ratio(times, name, "densevit"), f"{scores[name]:.7f}"
            comparison.add_row(name, make.__name__, *figures)
    show(comparison)


if __name__ == "__main__":
    main()
