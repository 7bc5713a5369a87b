"""Images per second of densevit's loader and of DETR's transforms in Pillow and torchvision, on the same files.

    python tools/benchmarks/loading.py --root ~/coco [--split train] [--images 80] [--rounds 7] [--batch-size 8]

Both read, flip, resize to a short side of 480 ... 800 (in half of the cases after a resize and a crop), transform the
boxes and pad batches with a mask. The peer normalises to float, as DETR's code does; densevit returns uint8, which the
model normalises on its device. Prints the medians and the median ratio.
"""

import random
import statistics
from collections import deque
from collections.abc import Callable

import cv2
import torch
import torchvision.transforms.functional as F
from interleaved import measure, parsed, parser, ratio
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from densevit.data.datasets.coco_dataset import Coco
from densevit.data.loading.batch_sampler import TrainBatches
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit.data.transforms.detr import DetrTransforms
from densevit.data.transforms.sample_augmentation import Augmentation
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
    for (image, _), canvas, blank in zip(samples, images, mask, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]].copy_(image)
        blank[: image.shape[1], : image.shape[2]] = False
    return images, mask, [targets for _, targets in samples]


def start_worker(worker: int) -> None:
    random.seed(worker)
    torch.set_num_threads(1)


def main() -> None:
    options = parser(__doc__, rounds=7)
    options.add_argument("--root", required=True, help="a folder with COCO-format annotations and their images")
    options.add_argument("--split", default="train")
    options.add_argument("--images", type=int, default=80, help="number of images of the data set to read")
    options.add_argument("--batch-size", type=int, default=8)
    options.set_defaults(threads=1, device="cpu")
    args = parsed(options)
    cv2.setNumThreads(0)
    coco = Coco(args.split, root=args.root, limit=args.images)
    images = len(coco) // args.batch_size * args.batch_size
    print(f"{len(coco)} images of {args.root}, batches of {args.batch_size}, {args.rounds} rounds each")
    for workers in (0, 2):
        made = {"densevit": densevit_epochs, "Pillow": pillow_epochs}
        times = measure({name: make(coco, args.batch_size, workers) for name, make in made.items()}, args.rounds)
        rates = ", ".join(f"{name} {images / statistics.median(times[name]):.0f}" for name in times)
        print(f"{workers or 'no'} workers: {rates} images per second; ratio {ratio(times, 'Pillow', 'densevit')}")


def densevit_epochs(coco: Coco, batch_size: int, workers: int) -> Callable[[], None]:
    """Returns a function that loads an epoch at each call."""
    batches = TrainBatches(len(coco), batch_size, seed=0)
    loader = Loader(TransformedDataset(coco, Augmentation(DetrTransforms(None)), train=True), batches, 1, workers)

    def epoch() -> None:
        loader.set_epoch(batches.epoch + 1)
        deque(loader, maxlen=0)

    return epoch


def pillow_epochs(coco: Coco, batch_size: int, workers: int) -> Callable[[], object]:
    """The same of the peer."""
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
    return lambda: deque(loader, maxlen=0)


if __name__ == "__main__":
    main()
