"""Data sets and files that the pages name. The tests of their readers, which make some, are imported late."""

import json
import pickle
import shutil
import string
from pathlib import Path

import numpy as np
from PIL import Image

from densevit.cli import main

SIZE = (64, 96)
MY_PACKAGE = """
import torch
from torch import nn

import densevit


class Lion(torch.optim.AdamW):
    def __init__(
        self, params, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0,
        cautious: bool = False,
    ):
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)


def triangle(step: int, steps: int, peak: float = 0.5) -> float:
    progress = step / steps
    return progress / peak if progress < peak else (1 - progress) / (1 - peak)


class MyNet(densevit.Backbone):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.channels, self.strides = (width, width, width, width), (4, 8, 16, 32)
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.stages = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in self.channels)

    def forward(self, images):
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]).relu())
        return features[1:]

    def parameter_depths(self):
        return [list(part.parameters()) for part in (self.stem, *self.stages)]


class MyDataset(torch.utils.data.Dataset):
    def __init__(self, split: str) -> None:
        self.split = split

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        boxes, labels = torch.tensor([[8.0, 8.0, 40.0, 32.0]]), torch.tensor([0])
        size = {"size": (64, 64), "original_size": (64, 64)}
        return {
            "image": torch.full((3, 64, 64), 90, dtype=torch.uint8),
            "targets": {"image_id": index, **size, "boxes": boxes, "labels": labels},
        }
"""


def coco(folder: Path) -> None:
    from tests.configs.generated import make_coco

    make_coco(folder, SIZE)


def label_maps(layout: str, folder: Path) -> None:
    from tests.configs.generated import make_label_maps

    make_label_maps(layout, folder, SIZE)


def depth_maps(layout: str, size: tuple[int, int], folder: Path) -> None:
    from tests.configs.generated import make_depth_maps

    make_depth_maps(layout, folder, [size])


def kmax(file: Path) -> None:
    import torch

    from tests.papers.test_kmax_checkpoints import authors_state

    torch.save({"model": authors_state()}, file)


def scenes(folder: Path) -> None:
    assert main(["scenes", "--out", str(folder), "--count", "4", "--size", "64", "--quiet"]) == 0


def scenes_and_test(folder: Path) -> None:
    scenes(folder)
    shutil.copytree(folder / "val", folder / "test")
    shutil.copy(folder / "annotations/val.json", folder / "annotations/test.json")


def photos(folder: Path, count: int = 2) -> None:
    folder.mkdir()
    for name in string.ascii_lowercase[:count]:
        photo(folder / f"{name}.jpg")


def animals(folder: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in ("1", "22"):
                photo(folder / split / name / f"{number}.jpg")


def photo(file: Path) -> None:
    rng = np.random.default_rng([*"/".join(file.parts[-3:]).encode()])
    image = rng.integers(0, 255, (15, 20, 3), dtype=np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    Image.fromarray(image).save(file)


def traffic(folder: Path) -> None:
    """COCO's layout with other classes."""
    coco(folder)
    names = {1: "pedestrian", 3: "car", 6: "bus", 18: "dog"}
    for file in (folder / "annotations").glob("instances_*.json"):
        content = json.loads(file.read_text())
        content["categories"] = [{"id": key, "name": name} for key, name in names.items()]
        for index, one in enumerate(content["annotations"]):
            one["category_id"] = [*names][index % len(names)]
        file.write_text(json.dumps(content))


def vehicles(folder: Path) -> None:
    from tests.workbench.interchange.test_dataset_conversion import yolo

    yolo(folder)
    photo(folder / "images" / "val" / "c.png")  # unlike the training images
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: car, 1: truck}\n")


def depth_set(folder: Path) -> None:
    """Depth in millimetres."""
    label_maps("label_maps", folder)
    for file in folder.glob("labels/*/*.png"):
        Image.fromarray(np.linspace(1000, 3000, 64 * 96).reshape(64, 96).astype(np.uint16)).save(file)


def pickled(file: Path) -> None:
    file.write_bytes(pickle.dumps({"model": {"backbone.x": np.ones((2, 3), np.float32)}}))
