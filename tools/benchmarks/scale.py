"""Cost of large trainings on 1, 8 and 64 GPUs, computed from operations, bytes and published peak rates; not run.

    python tools/benchmarks/scale.py [--gpu a100] [--utilisation 0.2] [--cores 16]

Measured here: operations of a training step (torch's counter, forward and backward, without the losses), bytes of its
gradients, seconds that one CPU core needs to decode and augment an image. Assumed: the GPU's published peak rates, the
share of them that training reaches, CPU cores per GPU. Real trainings are slower: losses and matching, kernels that
wait for memory, start-up and validation are not included.

    compute  = operations an image / (peak rate * utilisation)               seconds an image and GPU
    data     = seconds an image and core / cores                             seconds an image and GPU
    exchange = 2 (N - 1) / N * 4 bytes * trained parameters / bandwidth      seconds a step; 0 for one GPU
    step     = max(images * compute, images * data, exchange)                loading and exchange overlap with computing
    training = images of the training / (images * N) * step
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from densevit.config import Config, load
from densevit.config.values import with_value
from densevit.data.io.images import read_image
from densevit.data.transforms.building import build_transforms
from densevit.interfaces import Class
from densevit.model import build_from_sections
from densevit.targets.types import TargetTypes

COUNTS = (1, 8, 64)
NODE = 8  # GPUs


@dataclass(frozen=True)
class Gpu:
    """Published peak rates. tflops: dense bf16. node, network: bytes per second of a GPU within and between nodes."""

    tflops: float
    node: float
    network: float


GPUS = {  # NVIDIA's data sheets; NVLink one way; 200 and 400 Gbit/s of InfiniBand for each GPU
    "a100": Gpu(312, 300e9, 25e9),
    "h100": Gpu(989, 450e9, 50e9),
}


@dataclass(frozen=True)
class Training:
    """A recipe and its length. size: mean (H, W) of padded images. batch: images per GPU and step. source: mean (h, w)
    of image files."""

    name: str
    config: str
    images: float
    size: tuple[int, int]
    batch: int
    classes: int
    source: tuple[int, int]


TRAININGS = (
    Training("COCO, 12 epochs, DETR-R50", "configs/coco/detr_r50.yaml", 12 * 118_287, (704, 960), 4, 80, (480, 640)),
    Training("COCO, 12 epochs, DINO-R50", "configs/coco/dino_r50_12ep.yaml", 12 * 118_287, (704, 960), 2, 80,
             (480, 640)),
    Training("ADE20K, 160k steps of 16, SETR-PUP ViT-L", "configs/ade20k/setr_pup_vit_large.yaml", 160_000 * 16,
             (512, 512), 2, 150, (512, 683)),
    Training("one billion images, DETR-R50", "configs/coco/detr_r50.yaml", 1e9, (704, 960), 4, 80, (480, 640)),
)  # fmt: skip


def operations(config: Config, training: Training) -> tuple[float, int]:
    """Floating point operations of one image in training, forward and backward, and the number of trained parameters.

    Computed on the meta device, which has shapes without numbers."""
    name, *_ = config.heads
    classes = [Class(str(i), i, (0, 0, 0)) for i in range(training.classes)]
    with torch.device("meta"):
        plain = with_value(config, ("trainer", "replace_layers"), False)
        model = build_from_sections(plain, {name: classes}, pretrained=False).with_heads({name})
        height, width = training.size
        pixels = torch.empty(1, 3, height, width)
        padding = torch.zeros(1, height, width, dtype=torch.bool)
        with FlopCounterMode(display=False) as counter:
            outputs = model.heads[name](model.backbone(pixels), padding, None)
            tensors = [x for x in tree_flatten(outputs)[0] if isinstance(x, Tensor) and x.requires_grad]
            torch.stack([x.float().sum() for x in tensors]).sum().backward()
    return counter.get_total_flops(), sum(p.numel() for p in model.parameters() if p.requires_grad)


def seconds_per_image(config: Config, training: Training, repeats: int = 30) -> tuple[float, int]:
    """Median seconds in which one core decodes and augments a JPEG, and its bytes. The image is smooth noise."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    height, width = training.source
    small = random.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    file = cv2.imencode(".jpg", cv2.resize(small, (width, height)), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    transform, _ = build_transforms(config.data)
    detection = "detection" in config.heads
    types = TargetTypes()
    seconds = []
    for index in range(repeats):
        start = time.perf_counter()
        image = torch.from_numpy(read_image(file, name="noise.jpg")).permute(2, 0, 1)
        targets: dict[str, object] = {"image_id": index}
        if detection:
            corner = random.uniform(0, 200, (7, 2)).astype(np.float32)
            targets |= {"boxes": torch.from_numpy(np.concatenate([corner, corner + 100], 1))}
            targets |= {"labels": torch.zeros(7, dtype=torch.long)}
        else:
            targets["semantic"] = torch.zeros(height, width, dtype=torch.uint8)
        transform({"image": image, "targets": targets}, np.random.default_rng(index), types)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[3:]), len(file)


@dataclass(frozen=True)
class Cost:
    """Seconds of a step's parts, of a step, and of the whole training, on `count` GPUs."""

    count: int
    compute: float
    data: float
    exchange: float
    step: float
    total: float

    @property
    def limit(self) -> str:
        parts = {"compute": self.compute, "data": self.data, "exchange": self.exchange}
        return max(parts, key=lambda name: parts[name])


def cost(
    training: Training, flops: float, parameters: int, seconds: float, gpu: Gpu, utilisation: float, cores: int, N: int
) -> Cost:
    """flops: operations per image.

    seconds: seconds per image on one core. cores: CPU cores per GPU. N: number of GPUs.
    """
    compute = training.batch * flops / (gpu.tflops * 1e12 * utilisation)
    data = training.batch * seconds / cores
    exchange = 2 * (N - 1) / N * 4 * parameters / (gpu.node if N <= NODE else gpu.network)
    step = max(compute, data, exchange)
    return Cost(N, compute, data, exchange, step, training.images / (training.batch * N) * step)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpu", choices=GPUS, default="a100")
    parser.add_argument("--utilisation", type=float, default=0.2, help="share of the peak rate; %(default)s")
    parser.add_argument("--cores", type=int, default=16, help="CPU cores for each GPU; %(default)s")
    args = parser.parse_args()
    title = f"Computed, not run: {args.gpu}, {args.utilisation:.0%} of its peak rate, {args.cores} cores per GPU"
    columns = ("training", "GPUs", "compute ms", "data ms", "exchange ms", "images/s", "hours", "GPU hours", "limit")
    table = Table(*columns, title=title)
    console = Console(width=150)
    for training in TRAININGS:
        config = load(training.config)
        flops, parameters = operations(config, training)
        seconds, size = seconds_per_image(config, training)
        console.print(
            f"{training.name}: {flops / 1e9:.0f} G operations per image of {training.size[0]} x {training.size[1]}, "
            f"{parameters / 1e6:.1f} M trained parameters, {4 * parameters / 1e6:.0f} MB of gradients; one core "
            f"loads {1 / seconds:.0f} images/s of {size / 1e3:.0f} kB"
        )
        for N in COUNTS:
            found = cost(training, flops, parameters, seconds, GPUS[args.gpu], args.utilisation, args.cores, N)
            table.add_row(
                training.name if N == 1 else "", str(N), *(f"{1e3 * x:.1f}" for x in
                (found.compute, found.data, found.exchange)), f"{training.batch * N / found.step:,.0f}",
                f"{found.total / 3600:,.1f}", f"{N * found.total / 3600:,.0f}", found.limit,
            )  # fmt: skip
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
