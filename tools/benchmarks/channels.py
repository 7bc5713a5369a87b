"""What a fourth channel is worth: AP and mIoU with and without it, on rendered scenes of which it alone tells two
classes apart.

Each image is a TIFF of 16 bits: three channels with objects of random brightness on a random background, and a fourth
in which one class is darker than the background and the other is brighter. Detector and label maps are trained on one
backbone from random weights, on four channels and on three, with each seed.

    python tools/benchmarks/channels.py [--images 300] [--passes 10] [--seeds 0 1]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

import densevit

NAMES = ("red", "green", "blue", "nir")
H, W = 120, 160
CONFIG = """
seed: {seed}
backbone: {{name: swin, variant: nano, stem: conv}}
heads: {heads}
data: {data}
optim: {{lr: 1e-3, schedule: cosine, warmup: 0.05}}
trainer: {{max_epochs: {passes}, evaluate_every: 1.0, precision: 32, clip_grad_norm: 1.0, loggers: []}}
"""
TASKS = {
    "detection": ("{detection: {name: one_stage, width: 64}}", "name: coco", "detection/AP"),
    "segmentation": (
        "{segmentation: {name: segformer, width: 64}}",
        "name: label_maps, classes: [ground, cold, warm], images: 'images/{split}', labels: 'labels/{split}'",
        "segmentation/mIoU",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for split, count in (("train", args.images), ("val", args.images // 4)):
            write(folder, split, count)
        for task, (heads, options, metric) in TASKS.items():
            for names in (NAMES, NAMES[:3]):
                scores, begun = [], time.perf_counter()
                for seed in args.seeds:
                    root = folder / str(len(names))
                    data = (
                        f"{{{options}, root: {root}, channels: [{', '.join(names)}], image_size: {W}, batch_size: 16}}"
                    )
                    text = CONFIG.format(seed=seed, heads=heads, data=data, passes=args.passes)
                    (config := folder / "config.yaml").write_text(text)
                    run = densevit.fit(config, run_dir=folder / f"{task}-{len(names)}-{seed}")
                    scores.append(run.metrics[metric])
                minutes = (time.perf_counter() - begun) / 60 / len(args.seeds)
                shown = ", ".join(f"{score:.3f}" for score in scores)
                print(f"{metric} of {len(names)} channels: {shown}; {minutes:.1f} min each", flush=True)


def write(folder: Path, split: str, count: int) -> None:
    """Writes the images of a split with four channels and with three, and their labels."""
    rng = np.random.default_rng(len(split))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in (3, 4):
        for part in ("images", "labels"):
            (folder / str(number) / part / split).mkdir(parents=True, exist_ok=True)
        (folder / str(number) / "annotations").mkdir(exist_ok=True)
    for i in range(count):
        pixels, labels, boxes = scene(rng)
        for number in (3, 4):
            own = folder / str(number)
            tifffile.imwrite(own / "images" / split / f"{i:04}.tif", pixels[..., :number], planarconfig="contig")
            cv2.imwrite(str(own / "labels" / split / f"{i:04}.png"), labels)
        images.append({"id": i, "file_name": f"{i:04}.tif", "width": W, "height": H})
        for kind, box in boxes:
            one = {"id": len(annotations), "image_id": i, "category_id": kind, "bbox": box, "iscrowd": 0}
            annotations.append({**one, "area": box[2] * box[3]})
    categories = [{"id": 1, "name": "cold"}, {"id": 2, "name": "warm"}]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    for number in (3, 4):
        (folder / str(number) / "annotations" / f"{split}.json").write_text(text)


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[tuple[int, list[int]]]]:
    """Pixels (H, W, 4) uint16, class indices (H, W), and class and box (x, y, width, height) of each object."""
    ground = cv2.resize(rng.normal(0, 1, (6, 8, 4)).astype(np.float32), (W, H), interpolation=cv2.INTER_CUBIC)
    pixels = 3000 + 500 * ground + rng.normal(0, 100, (H, W, 4))
    labels = np.zeros((H, W), np.uint8)
    boxes: list[tuple[int, list[int]]] = []
    for _ in range(int(rng.integers(2, 6))):
        width, height = (int(side) for side in rng.integers(16, 40, 2))
        x, y, kind = int(rng.integers(W - width)), int(rng.integers(H - height)), int(rng.integers(1, 3))
        if labels[y : y + height, x : x + width].any():
            continue
        place, axes = (x + width // 2, y + height // 2), (width // 2, height // 2)
        inside = cv2.ellipse(np.zeros((H, W), np.uint8), place, axes, 0, 0, 360, 1, -1) > 0
        pixels[inside, :3] = 4500 + rng.uniform(-1500, 1500, 3) + rng.normal(0, 100, (int(inside.sum()), 3))
        pixels[inside, 3] = (1200, 6000)[kind - 1] + rng.normal(0, 100, int(inside.sum()))
        labels[inside] = kind
        rows, columns = np.where(inside)
        left, top = int(columns.min()), int(rows.min())
        boxes.append((kind, [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]))
    return pixels.clip(0, 10000).astype(np.uint16), labels, boxes


if __name__ == "__main__":
    main()
