"""Memory of a loader process for the annotations of a data set of COCO's size.

    python tools/benchmarks/annotation_memory.py [--images 118000 --boxes 860000 --workers 2 --epochs 3]

Writes a json with this number of images and boxes, loads it, and reads every sample in worker processes in each epoch.
The images are links to one tiny image, so that decoding does not hide the cost of annotations. Prints the private
memory (USS) of the largest worker and of an idle worker: a worker forked from the same parent, which has returned one
batch without reading annotations.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from densevit.data.datasets.coco_dataset import Coco
from densevit.data.loading.batch_sampler import EvaluationBatches
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit.data.transforms.default import DefaultTransforms
from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.interfaces import Dataset, Sample

_BATCH = 64
_SIDE = 32


class Idle(Dataset):
    """Samples without annotations."""

    def __len__(self) -> int:
        return _BATCH

    def __getitem__(self, index: int) -> Sample:
        return {"image": torch.zeros((3, _SIDE, _SIDE), dtype=torch.uint8), "targets": {"image_id": index}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data_set(root, arguments.images, arguments.boxes)
        start = time.perf_counter()
        dataset = Coco(
            "train", root=folder, annotations=dict.fromkeys(("train", "val"), "annotations/instances_train2017.json")
        )
        dataset.check_files()
        seconds = time.perf_counter() - start
        print(f"read and checked {arguments.images} images, {arguments.boxes} boxes in {seconds:.1f} s")
        measure(dataset, arguments.workers, arguments.epochs)


def write_data_set(root: Path, images: int, boxes: int) -> None:
    """A COCO json with random boxes and polygons, in the official layout, and its images."""
    rng = np.random.default_rng(0)
    corners, extents = rng.uniform(0, _SIDE / 2, (boxes, 2)), rng.uniform(1, _SIDE / 2, (boxes, 2))
    outlines = rng.uniform(0, _SIDE, (boxes, 46)).round(2)  # as many numbers as COCO's polygons have on average
    document = {
        "images": [{"id": i, "file_name": f"{i:012}.jpg", "height": _SIDE, "width": _SIDE} for i in range(images)],
        "annotations": [
            {
                "id": i,
                "image_id": int(image),
                "category_id": i % 80 + 1,
                "bbox": [*corner, *extent],
                "area": extent[0] * extent[1],
                "iscrowd": 0,
                "segmentation": [outline],
            }
            for i, (image, corner, extent, outline) in enumerate(
                zip(
                    rng.integers(images, size=boxes), corners.tolist(), extents.tolist(), outlines.tolist(), strict=True
                )
            )
        ],
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(80)],
    }
    folder = root / "train2017"
    folder.mkdir()
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(document))
    file = root / "image.jpg"
    cv2.imwrite(str(file), rng.integers(0, 255, (_SIDE, _SIDE, 3), dtype=np.uint8))
    for image in document["images"]:
        os.symlink(file, folder / image["file_name"])


def measure(dataset: Coco, workers: int, epochs: int) -> None:
    """Prints the private memory of the workers after each epoch."""
    transform = EvaluationTransform(DefaultTransforms(None))
    loader, idle = loader_of(dataset, transform, workers), loader_of(Idle(), transform, 1)
    for some in (loader, idle):  # forked together: a page that the parent writes later becomes private to the children
        next(iter(some))
    for epoch in range(epochs):
        start, seen = time.perf_counter(), 0
        for batch in loader:
            seen += len(batch["targets"])
        baseline = private_memory(processes_of(idle)[0])
        most = max(map(private_memory, processes_of(loader)))
        print(
            f"epoch {epoch + 1}: {seen} samples in {time.perf_counter() - start:.0f} s; private memory of a worker "
            f"{most:.1f} MB, of an idle one {baseline:.1f} MB, difference {most - baseline:.1f} MB"
        )


def loader_of(dataset: Dataset, transform: EvaluationTransform, workers: int) -> Loader:
    """A loader of the complete data set, in order."""
    sizes = np.full((len(dataset), 2), _SIDE)
    batches = EvaluationBatches(len(dataset), sizes, _BATCH)
    return Loader(TransformedDataset(dataset, transform, train=False), batches, 1, workers)


def processes_of(loader: Loader) -> list[int]:
    """The process ids of a loader's workers."""
    return [worker.pid for worker in loader._iterator._workers]  # type: ignore[union-attr]


def private_memory(process: int) -> float:
    """Memory in MB that no other process shares."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1000


if __name__ == "__main__":
    main()
