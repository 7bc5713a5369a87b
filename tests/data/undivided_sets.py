"""A data set without splits for each of densevit's data sets: its images are divided into train and val."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.written_files import save_image

SIDE = 32
HALVES = np.repeat([[1] * (SIDE // 2) + [2] * (SIDE // 2)], SIDE, axis=0)


class Undivided(NamedTuple):
    """name: the data set. write: writes images named by numbers, with labels, below a folder. options: those of the
    data set, besides root."""

    name: str
    write: Callable[[Path, Iterable[int]], None]
    options: Mapping[str, Any] = {}

    def section(self, root: Path) -> dict[str, Any]:
        return {"name": self.name, "root": str(root), **self.options}


def image(number: int) -> np.ndarray:
    """(H, W, 3) uint8; images above 1000 are copies of those without the thousands."""
    return np.random.default_rng(number % 1000).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def images(root: Path, numbers: Iterable[int], pattern: str = "images/{}.png") -> None:
    for number in numbers:
        save_image(root / pattern.format(number), image(number))


def coco(root: Path, numbers: Iterable[int]) -> None:
    images(root, numbers)
    listed = [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in numbers]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 9, 8]} for n in numbers]
    document = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "leaf"}]}
    (root / "all.json").write_text(json.dumps(document))


def coco_panoptic(root: Path, numbers: Iterable[int]) -> None:
    coco(root, numbers)
    document = json.loads((root / "all.json").read_text())
    segments = [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 2, "iscrowd": 0}]
    document["annotations"] = [{"image_id": n, "file_name": f"{n}.png", "segments_info": segments} for n in numbers]
    document["categories"] = [{"id": n, "name": f"class {n}", "isthing": 2 - n} for n in (1, 2)]
    (root / "all.json").write_text(json.dumps(document))
    for n in numbers:
        save_image(root / "segments" / f"{n}.png", np.stack([HALVES, 0 * HALVES, 0 * HALVES], 2).astype(np.uint8))


def label_maps(root: Path, numbers: Iterable[int]) -> None:
    images(root, numbers)
    for n in numbers:
        save_image(root / "labels" / f"{n}.png", HALVES.astype(np.uint8) - 1)
    (root / "list.txt").write_text("\n".join(map(str, numbers)))


def depth(root: Path, numbers: Iterable[int]) -> None:
    images(root, numbers)
    for n in numbers:
        for folder in ("labels", "valid"):
            (root / folder).mkdir(exist_ok=True)
            np.save(root / folder / f"{n}.npy", HALVES.astype(np.float32))
    (root / "list.txt").write_text("\n".join(map(str, numbers)))


def image_folder(root: Path, numbers: Iterable[int]) -> None:
    for n in numbers:
        images(root, [n], f"{'odd' if n % 2 else 'even'}/{{}}.png")


CLASSES = {"classes": ["first", "second"]}
NO_SPLITS = {"images": "images/*.png", "labels": "labels/*.npy"}
SETS = {
    "a COCO json": Undivided("coco", coco),
    "a COCO json that is named": Undivided("coco", coco, {"annotations": "all.json", "images": "images"}),
    "a panoptic json": Undivided(
        "coco_panoptic", coco_panoptic, {"annotations": "all.json", "images": "images", "segments": "segments"}
    ),
    "folders of label maps": Undivided("label_maps", label_maps, CLASSES),
    "patterns of label maps": Undivided(
        "label_maps", label_maps, {**CLASSES, "images": "images/*.png", "labels": "labels/*.png"}
    ),
    "patterns and a preset": Undivided(
        "label_maps", label_maps, {"preset": "camvid", "images": "images/*.png", "labels": "labels/*.png"}
    ),
    "a list of label maps": Undivided(
        "label_maps", label_maps, {**CLASSES, "images": "images", "labels": "labels", "list_file": "list.txt"}
    ),
    "folders of depth maps": Undivided("depth", depth, {"images": "images", "labels": "labels"}),
    "patterns of depth maps": Undivided("depth", depth, {**NO_SPLITS, "valid": "valid/*.npy"}),
    "a list of depth maps": Undivided(
        "depth", depth, {"images": "images", "labels": "labels", "list_file": "list.txt"}
    ),
    "folders of classes": Undivided("image_folder", image_folder),
    "images": Undivided("images", images),
}
