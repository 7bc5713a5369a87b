"""Memory of an evaluation of mask AP and panoptic quality.

    python tools/benchmarks/evaluation_memory.py [--images 500 --masks 100]

Each image of 480 x 640 pixels has that many predicted and annotated masks, panoptic maps and a label map, of 80 things
and 53 stuff classes as in COCO. Prints the peak resident memory minus the memory of the process with one image, after
all images were added and after the metrics were computed, and scales it linearly to 5,000 images.
"""

import argparse
import resource
from typing import Any

import numpy as np
import torch

from densevit.evaluation.panoptic import Panoptic
from densevit.interfaces import Class
from densevit.targets import RunLengthMasks

_SIZE = (480, 640)
_THINGS, _STUFF = 80, 53
_DISTINCT = 20  # different images; the others are shifted copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--masks", type=int, default=100)
    arguments = parser.parse_args()
    classes = [Class(f"class {n}", n + 1, (0, 0, 0), thing=n < _THINGS) for n in range(_THINGS + _STUFF)]
    drawn = [image_of(np.random.default_rng(n), arguments.masks) for n in range(_DISTINCT)]
    first = Panoptic(classes)
    first.update(*pair(drawn[0], 0))
    first.compute()
    evaluator, before = Panoptic(classes), peak()
    for n in range(arguments.images):
        evaluator.update(*pair(drawn[n % _DISTINCT], n))
    added = peak() - before
    metrics = evaluator.compute()
    computed = peak() - before
    names = ("PQ", "mask_AP", "mIoU")
    print(f"{arguments.images} images: {', '.join(f'{name} {metrics[name]:.3f}' for name in names)}")
    for what, value in (("added", added), ("computed", computed)):
        print(f"{what}: {value:.0f} MB; {value / arguments.images * 5000:.0f} MB for 5,000 images")


def image_of(rng: np.random.Generator, count: int) -> dict[str, Any]:
    """Ellipses on stuff, later ellipses on top; predictions are shifted."""
    height, width = _SIZE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    masks, labels = np.zeros((count, *_SIZE), bool), rng.integers(0, _THINGS, count)
    panoptic = ((_THINGS + x.astype(int) * 6 // width) * 1000).astype(np.int32)
    for n in range(count):
        share = min(0.3, np.exp(rng.normal(-4.5, 1.5)))
        radius = np.sqrt(share * height * width / np.pi)
        wave = 1 + 0.2 * np.sin(np.arctan2(y - (a := rng.uniform(0, height)), x - (b := rng.uniform(0, width))) * 7)
        masks[n] = (y - a) ** 2 + (x - b) ** 2 < (wave * max(radius, 4)) ** 2
        panoptic[masks[n]] = labels[n] * 1000 + n
    return {"masks": masks, "labels": labels, "panoptic": panoptic, "scores": rng.random(count)}


def pair(drawn: dict[str, Any], number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A prediction and a target, shifted by an amount that depends on `number`."""
    shift = number // _DISTINCT
    known = {key: np.roll(drawn[key], shift, -1) for key in ("masks", "panoptic")}
    found = {key: np.roll(value, 3, -1) for key, value in known.items()}
    predictions = {**drawn, **found, "semantic": (found["panoptic"] // 1000).astype(np.uint8)}
    truth = {**known, "labels": drawn["labels"], "image_id": number, "panoptic_crowds": []}
    truth["iscrowd"] = np.zeros(len(drawn["labels"]), bool)
    truth["masks"] = RunLengthMasks.from_dense(known["masks"], _SIZE)
    return tuple(  # type: ignore[return-value]
        [{key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in one.items()}]
        for one in (predictions, truth)
    )


def peak() -> float:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
