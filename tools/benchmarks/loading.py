"""Images per second of densevit's loader and of DETR's transforms in Pillow and torchvision, on the same files.

    python tools/benchmarks/loading.py --root ~/coco [--split train] [--images 80] [--rounds 7] [--batch-size 8]

Both read, flip, resize to a short side of 480 ... 800 (in half of the cases after a resize and a crop), transform the
boxes and pad batches with a mask. The peer normalises to float, as DETR's code does; densevit returns uint8, which the
model normalises on its device. Rounds alternate between the two, so that other load affects both. Prints the medians
and the median ratio.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import torch
import torchvision.transforms.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from densevit.data.datasets.coco import Coco
from densevit.data.loading.batch_sampler import TrainBatches
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit.data.transforms.augmentation import Augmentation
from densevit.data.transforms.detr import Detr
from densevit.interfaces import IMAGENET_MEAN, IMAGENET_STD

_SCALES = range(480, 801, 32)
_LONGEST = 1333


class PillowTransforms(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """DETR's training transform with the same operations as the authors' code: successive Pillow resizes."""

    def __init__(self, coco: Coco, count: int) -> None:
        self.coco, self.count = coco, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = Image.open(self.coco.path(index)).convert("RGB")
        objects = self.coco.objects(index)
        plain = ~objects["iscrowd"]
        boxes, labels = objects["boxes"][plain], objects["labels"][plain]
        if random.random() < 0.5:
            image = F.hflip(image)
            width = image.width
            boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([width, 0, width, 0])
        if random.random() < 0.5:
            image, boxes = resized(image, boxes, random.choice([400, 500, 600]), None)
            width, height = (random.randint(384, min(side, 600)) for side in image.size)
            top, left = random.randint(0, image.height - height), random.randint(0, image.width - width)
            image = F.crop(image, top, left, height, width)
            boxes = (boxes - torch.tensor([left, top, left, top])).clamp(min=0)
            boxes = boxes.minimum(torch.tensor([width, height, width, height]))
            keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            boxes, labels = boxes[keep], labels[keep]
        image, boxes = resized(image, boxes, random.choice(_SCALES), _LONGEST)
        image = F.normalize(F.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)
        return image, {"boxes": boxes, "labels": labels}


def resized(image: Image.Image, boxes: Tensor, short: int, longest: int | None) -> tuple[Image.Image, Tensor]:
    low, high = min(image.size), max(image.size)
    if longest is not None and short * high / low > longest:
        short = round(longest * low / high)
    width, height = (short if side == low else int(short * side / low) for side in image.size)
    scale = torch.tensor([width / image.width, height / image.height]).repeat(2)
    return image.resize((width, height), Image.Resampling.BILINEAR), boxes * scale


def padded_batch(samples: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    height, width = (max(image.shape[axis] for image, _ in samples) for axis in (1, 2))
    images = torch.zeros(len(samples), 3, height, width)
    mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for (image, _), place, blank in zip(samples, images, mask, strict=True):
        place[:, : image.shape[1], : image.shape[2]].copy_(image)
        blank[: image.shape[1], : image.shape[2]] = False
    return images, mask, [targets for _, targets in samples]


def start_worker(worker: int) -> None:
    random.seed(worker)
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder with COCO-format annotations and their images")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=80, help="number of images of the data set to read")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    coco = Coco(arguments.split, root=arguments.root, limit=arguments.images)
    print(f"{len(coco)} images of {arguments.root}, batches of {arguments.batch_size}, {arguments.rounds} rounds each")
    for workers in (0, 2):
        ours, theirs = (
            densevit_epochs(coco, arguments.batch_size, workers),
            pillow_epochs(coco, arguments.batch_size, workers),
        )
        compare(ours, theirs, arguments.rounds, "this process" if workers == 0 else f"{workers} workers")


def densevit_epochs(coco: Coco, batch_size: int, workers: int) -> Callable[[], Iterator[Any]]:
    """Returns a function that yields an epoch of batches at each call."""
    batches = TrainBatches(len(coco), batch_size, seed=0)
    loader = Loader(TransformedDataset(coco, Augmentation(Detr(None)), train=True), batches, 1, workers)

    def epoch() -> Iterator[Any]:
        loader.set_epoch(batches.epoch + 1)
        return iter(loader)

    return epoch


def pillow_epochs(coco: Coco, batch_size: int, workers: int) -> Callable[[], Iterator[Any]]:
    """Returns a function that yields an epoch of the peer's batches at each call."""
    loader = DataLoader(
        PillowTransforms(coco, len(coco)),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=padded_batch,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
    )
    return lambda: iter(loader)


def compare(ours: Callable[[], Iterator[Any]], theirs: Callable[[], Iterator[Any]], rounds: int, where: str) -> None:
    """Alternates epochs of the two and prints images per second."""
    rate(ours), rate(theirs)  # starts workers, fills the disk cache
    pairs = [(rate(ours), rate(theirs)) for _ in range(rounds)]
    own, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    middle = statistics.median(ratios)
    print(f"{where}: densevit {own:.0f}, Pillow {peer:.0f} images per second; ratio {middle:.2f}", end=" ")
    print(f"({ratios[0]:.2f} ... {ratios[-1]:.2f})")


def rate(epoch: Callable[[], Iterator[Any]]) -> float:
    """Images per second over one epoch."""
    start, images = time.perf_counter(), 0
    for batch in epoch():
        images += len(batch["targets"] if isinstance(batch, dict) else batch[2])
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
