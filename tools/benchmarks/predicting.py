"""Compares the speed of `densevit predict` with that of its parts, each alone, on images of 480 x 640.

With `waiting`, a backbone waits 10 ms per image without a core, as for a GPU, and a head predicts 300 boxes: the
command should reach 0.9 of the images per second of `predictor.predict`. With a config's name, a model with random
weights uses the cores: the command's time should be at most 1.05 of the CPU seconds of all parts, divided by the number
of cores. About ten objects per image are above the threshold.

    python tools/benchmarks/predicting.py waiting --images 1000
    python tools/benchmarks/predicting.py coco/dfine_n --images 200
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

import densevit
from densevit.cli import main as densevit_command
from densevit.cli.prediction_files import PredictionFiles
from densevit.data.io.images import read_image
from densevit.inference import loading
from densevit.inference.input_images import find_images
from densevit.inference.predictor import BATCHES_AT_ONCE, Predictor
from densevit.interfaces import Backbone, Class, Head, Outputs, Predictions, Targets
from densevit.model import DenseModel

CLASSES = [Class(f"class {n}", n + 1, (20, 3 * n, 250 - 3 * n)) for n in range(80)]
FILES, BATCH, DRAWN = 20, 8, 10
CHUNK = BATCHES_AT_ONCE * BATCH  # images that the command predicts together


class WaitingBackbone(Backbone):
    """Waits 10 ms per image."""

    channels, strides = (1,), (32,)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> list[Tensor]:
        time.sleep(0.01 * len(images))
        return [images[:, :1, ::32, ::32]]


class FixedBoxes(Head):
    """Predicts the same 300 boxes in each image."""

    task, needs = "detection", ("boxes", "labels")

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        return {}

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        values = torch.rand(300, 6, generator=torch.Generator().manual_seed(0))
        boxes = torch.cat([values[:, :2] * 300, values[:, :2] * 300 + values[:, 2:4] * 150], dim=1)
        labels = (values[:, 5] * len(CLASSES)).long()
        return [{"boxes": boxes, "scores": values[:, 4], "labels": labels} for _ in targets]


def write_images(folder: Path, count: int) -> None:
    """Writes JPEGs of gray noise of 480 x 640; the files are hard links to twenty images."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(count):
        if n < FILES:
            cv2.imwrite(str(folder / f"{n:06}.jpg"), rng.normal(128, 12, (480, 640, 3)).astype(np.uint8))
        else:
            os.link(folder / f"{n % FILES:06}.jpg", folder / f"{n:06}.jpg")


def timed(run: Callable[[], Any], count: int) -> tuple[Any, float, float]:
    """Returns the result, and the elapsed and CPU milliseconds per image."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, 1e3 * (time.perf_counter() - wall) / count, 1e3 * (time.process_time() - cpu) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="waiting, or the name of a config that detects objects")
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args()
    if args.model == "waiting":
        predictor = Predictor(DenseModel(WaitingBackbone(), {"detection": FixedBoxes((1,), (32,), CLASSES)}))
    else:
        predictor = densevit.create_model(args.model, classes=CLASSES, pretrained=False)
    loading.load = lambda *given, **options: predictor
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name, "images"), args.images
        write_images(folder, count)
        images = find_images([str(folder)])
        pixels, *decoding = timed(lambda: [read_image(image.path) for image in images[:FILES]], FILES)
        chunks = [[pixels[n % FILES] for n in range(count)][n : n + CHUNK] for n in range(0, count, CHUNK)]
        results = predictor.predict(pixels, 0.0, BATCH)
        threshold = float(torch.cat([result["scores"] for result in results]).sort().values[-DRAWN * FILES])
        command = ["predict", args.model, str(folder), "--out", f"{name}/out", "--threshold", str(threshold), "--quiet"]
        code, *whole = timed(lambda: densevit_command(command), count)
        predicting = timed(lambda: [len(predictor.predict(chunk, 0.0, BATCH)) for chunk in chunks], count)[1:]
        with PredictionFiles(Path(name, "alone"), predictor.classes, {"detection": threshold}) as files:
            writing = timed(lambda: [files.add(*one) for one in zip(images, pixels, results)], FILES)[1:]  # noqa: B905
    print(f"{args.model}, {count} images, {torch.get_num_threads()} threads, exit status {code}; ms per image:")
    parts = {"decoding": decoding, "predicting": predicting, "writing": writing, "command": whole}
    for part, (wall, cpu) in parts.items():
        print(f"  {part:11} {wall:7.2f} elapsed {cpu:7.2f} CPU  ({1e3 / wall:.1f} images/s)")
    total, cores = decoding[1] + predicting[1] + writing[1], os.cpu_count() or 1
    print(f"images per second of the command / of predict alone: {predicting[0] / whole[0]:.3f}")
    print(f"elapsed / (CPU of the parts / {cores} cores): {whole[0] * cores / total:.3f}")


if __name__ == "__main__":
    main()
