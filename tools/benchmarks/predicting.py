"""Compares the speeds of `densevit predict` without drawings and of the iterator alone, on images of 480 x 640.

With `waiting`, a backbone waits 10 ms per image without a core, as for a GPU, and a head predicts 300 boxes. With a
config's name, a model with random weights uses the cores. About ten objects per image are above the threshold. Both are
run alternately, and the medians compared: the command should reach 0.9 of the images per second of
`model.iterate`. The processor's time of the process is that of all its threads.

    python tools/benchmarks/predicting.py waiting start/detector coco/dfine_n --images 200
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

import densevit
from densevit.cli import main as densevit_command
from densevit.inference import model_loading
from densevit.interfaces import Backbone, Class, Head, Outputs, Predictions, Targets
from densevit.model import DenseModel
from densevit_batch.image_listing import find_images

CLASSES = [Class(f"class {n}", n + 1, (20, 3 * n, 250 - 3 * n)) for n in range(80)]
FILES, BATCH, DRAWN = 20, 8, 10


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

    task, required_targets = "detection", ("boxes", "labels")

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


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """The seconds of a call, and those of the processor."""
    begin = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def measure(name: str, folder: Path, count: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the seconds per image of the command and of the iterator, and those of the processor. name: the name of a
    config, or `waiting`."""
    if name == "waiting":
        model = DenseModel(WaitingBackbone(), {"detection": FixedBoxes((1,), (32,), CLASSES)})
    else:
        model = densevit.create_model(name, classes=CLASSES, pretrained=False)
    model_loading.load = lambda *arguments, **options: model
    images = [image.path for image in find_images([str(folder / "images")])]
    results = model.predict(images[:FILES], 0.0, BATCH)
    threshold = float(torch.cat([result["scores"] for result in results]).sort().values[-DRAWN * FILES])
    command = ["predict", name, str(folder / "images"), "--draw", "none", "--threshold", str(threshold), "--quiet"]
    seconds: dict[str, list[tuple[float, float]]] = {"command": [], "iterator": []}
    for n in range(rounds):
        out = ["--out", str(folder / f"{name.replace('/', '-')}-{n}")]
        seconds["command"].append(timed(lambda: densevit_command([*command, *out])))  # noqa: B023
        seconds["iterator"].append(timed(lambda: [None for _ in model.iterate(images, 0.0, BATCH)]))
    return np.median(seconds["command"], axis=0) / count, np.median(seconds["iterator"], axis=0) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="waiting, or the name of a config that detects objects")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{args.images} images, {torch.get_num_threads()} threads; images per second:")
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name, "images"), args.images)
        for model in args.models:
            command, iterator = measure(model, Path(name), args.images, args.rounds)
            rates, ratio = (1 / command[0], 1 / iterator[0]), iterator[0] / command[0]
            processor = f"processor {1000 * command[1]:.1f} and {1000 * iterator[1]:.1f} ms per image"
            print(f"  {model:16} command {rates[0]:7.1f}  iterator {rates[1]:7.1f}  ratio {ratio:.3f}  {processor}")


if __name__ == "__main__":
    main()
