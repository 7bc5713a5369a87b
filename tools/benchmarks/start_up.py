"""Time from the start to the first batch of a COCO-sized data set, without and with the cache of its scan.

    python tools/benchmarks/start_up.py [--images 118000] [--annotations 860000] [--masks] [--root DIR]

The data set is synthetic: a json with polygons of 24 points, and hard links to one small JPEG of 640 x 480. Each start
is a separate process that imports densevit, builds both splits, checks them as a training does, and loads a batch. CPU
seconds are those of the process with its threads; on a busy machine they are more reliable than the elapsed time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

_CLASSES = 80
_WIDTH, _HEIGHT = 640, 480
_LINKS = 50_000  # of one file; ext4 allows 65,000


def write_split(root: Path, split: str, images: int, annotations: int) -> None:
    rng = np.random.default_rng(0)
    folder = root / f"{split}2017"
    folder.mkdir(parents=True)
    names = [f"{index:012}.jpg" for index in range(images)]
    for start in range(0, images, _LINKS):
        first, *others = (folder / name for name in names[start : start + _LINKS])
        Image.new("RGB", (_WIDTH, _HEIGHT), (90, 120, 60)).save(first)
        for other in others:
            os.link(first, other)
    records = []
    for number in range(annotations):
        box = rng.uniform([0, 0, 5, 5], [300, 300, 150, 150]).round(2)
        points = (box[:2] + rng.uniform(0, 1, (24, 2)) * box[2:]).round(2)
        records.append(
            {
                "id": number + 1,
                "image_id": int(rng.integers(images)),
                "category_id": int(rng.integers(_CLASSES)) + 1,
                "bbox": box.tolist(),
                "area": float(box[2:].prod()),
                "iscrowd": 0,
                "segmentation": [points.flatten().tolist()],
            }
        )
    document = {
        "images": [{"id": i, "file_name": name, "height": _HEIGHT, "width": _WIDTH} for i, name in enumerate(names)],
        "annotations": records,
        "categories": [{"id": number + 1, "name": f"class {number}"} for number in range(_CLASSES)],
    }
    file = root / "annotations" / f"instances_{split}2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document))


def start(root: str, masks: bool) -> None:
    """Prints the seconds and CPU seconds of one start in this process."""
    begin = time.perf_counter()
    from densevit.config import DataSection
    from densevit.data.build import Data

    section = {"name": "coco", "root": root, "masks": masks, "batch_size": 4, "recipe": "detr", "num_workers": 0}
    data = Data(DataSection(**section, image_size=(480, 800)), 0, 32)  # type: ignore[arg-type]
    data.check_splits()
    next(iter(data.train_loader()))
    print(f"{time.perf_counter() - begin:.1f} s, {time.process_time():.1f} CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--annotations", type=int, default=860_000)
    parser.add_argument("--masks", action="store_true", help="with instance masks")
    parser.add_argument("--root", type=Path, help="folder in which the data set is kept for the next call")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        return start(str(args.root), args.masks)
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary) / "coco"
        if not root.exists():
            write_split(root, "train", args.images, args.annotations)
            write_split(root, "val", max(1, args.images // 24), max(1, args.annotations // 24))
        command = [sys.executable, __file__, "--start", "--root", str(root), *["--masks"][: args.masks]]
        environment = {**os.environ, "DENSEVIT_CACHE": f"{temporary}/cache"}
        for name in ("first start", "second start", "third start"):
            print(f"{name}: ", end="", flush=True)
            subprocess.run(command, env=environment, check=True)
        size = sum(file.stat().st_size for file in Path(temporary, "cache").iterdir())
        print(f"cache: {size / 1e6:.0f} MB; load of this machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
