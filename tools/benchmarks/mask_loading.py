"""Time and memory of instance masks in a loader process.

    python tools/benchmarks/mask_loading.py [--images 40 --objects 100 --transforms detr]

Writes a COCO json of images of 1333 x 800 pixels with that many polygons each, and loads them for training in a worker
process, alternately with boxes only and with masks. Prints the processor time per image of both and their ratio,
medians over the rounds, the peak memory of the worker minus that of an idle worker, and the bytes per image that the
worker sends.
"""

import argparse
import json
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from annotation_memory import Idle, processes_of

from densevit import registry
from densevit.data.datasets.coco import Coco
from densevit.data.loading.batch_sampler import SampleKey, TrainBatches
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit.data.transforms.augmentation import Augmentation

_SIZE = (800, 1333)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--transforms", choices=("detr", "crop", "fixed"), default="detr")
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    size = {"detr": None, "crop": 1024, "fixed": 1333}[arguments.transforms]
    transforms = registry.create("transforms", arguments.transforms, size, options={}, where="data.transforms")
    with tempfile.TemporaryDirectory() as folder:
        write_data_set(Path(folder), arguments.images, arguments.objects)
        loaders = {}
        for name, masks in (("boxes", False), ("masks", True)):
            dataset = Coco("train", root=folder, annotations="train.json", masks=masks)
            prepared = TransformedDataset(dataset, Augmentation(transforms), train=True)
            loaders[name] = loader_of(prepared, arguments.images)
            handed = len(pickle.dumps(prepared[SampleKey(0, 0)])) / 1e6
            print(f"{name}: {handed:.2f} MB are sent per image")
        idle = loader_of(TransformedDataset(Idle(), Augmentation(transforms), train=True), 64)
        next(iter(idle))
        seconds: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(arguments.rounds):
            for name, loader in loaders.items():
                start = 0.0 if loader._iterator is None else processor_time(processes_of(loader)[0])
                for _ in loader:
                    pass
                seconds[name].append((processor_time(processes_of(loader)[0]) - start) / arguments.images)
        baseline = peak_memory(processes_of(idle)[0])
        for name, loader in loaders.items():
            usual, memory = 1000 * np.median(seconds[name]), peak_memory(processes_of(loader)[0]) - baseline
            print(f"{name}: {usual:.1f} ms per image, peak memory {memory:.0f} MB over an idle worker")
        ratios = np.divide(seconds["masks"], seconds["boxes"])
        print(f"masks / boxes: {np.median(ratios):.3f} of the time ({ratios.min():.3f} ... {ratios.max():.3f})")


def loader_of(dataset: TransformedDataset, images: int) -> Loader:
    """Batches of one image, from one worker."""
    return Loader(dataset, TrainBatches(images, 1, 0), 1, 1)


def write_data_set(root: Path, images: int, objects: int) -> None:
    """Writes images with as many bytes per pixel and polygons with as many points as COCO's."""
    rng = np.random.default_rng(0)
    height, width = _SIZE
    (root / "train").mkdir()
    annotations: list[dict[str, Any]] = []
    for i in range(images):
        pixels = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), 1)
        cv2.imwrite(str(root / "train" / f"{i}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
        for _ in range(objects):
            share = min(0.5, np.exp(rng.normal(-4.5, 1.5)))
            w = min(0.95 * width, np.sqrt(share * width * height * np.exp(rng.normal(0, 0.4))))
            h = min(0.95 * height, share * width * height / w)
            x, y = rng.uniform(w / 2, width - w / 2), rng.uniform(h / 2, height - h / 2)
            angles, radii = np.linspace(0, 2 * np.pi, 21, endpoint=False), rng.uniform(0.7, 1, 21)
            points = [x + w / 2 * radii * np.cos(angles), y + h / 2 * radii * np.sin(angles)]
            box = [x - w / 2, y - h / 2, w, h]
            polygon = np.stack(points, axis=1).ravel().round(2).tolist()
            annotations.append(
                {"id": len(annotations), "image_id": i, "category_id": 1, "bbox": box}
                | {"area": w * h * 0.56, "iscrowd": 0, "segmentation": [polygon]}
            )
    document = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": height, "width": width} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (root / "train.json").write_text(json.dumps(document))


def processor_time(process: int) -> float:
    """Processor seconds of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def peak_memory(process: int) -> float:
    """Peak resident memory in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    main()
