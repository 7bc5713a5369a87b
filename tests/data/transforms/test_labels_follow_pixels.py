"""Labels are where their pixels are, after all transforms, change of colour and method's view."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from densevit import registry
from densevit.config import DataSection, from_mapping
from densevit.data.data_splits import DataSplits
from densevit.data.transforms.color_augmentation import reason_it_moves_pixels
from densevit.data.transforms.default import DefaultTransforms
from densevit.data.transforms.sample_augmentation import Augmentation
from densevit.data.transforms.transform_builder import build_transforms
from densevit.errors import ConfigError
from densevit.interfaces import Dataset, Method, Sample
from densevit.targets.keypoints import Keypoints
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes
from tests.counted_dataset import CountedDataset

SIDE = 96
ERASED = torch.tensor([124, 116, 104])[:, None, None]


class Rectangle(CountedDataset):
    """A bright rectangle on a dark background, labelled in all ways."""

    provides = {  # noqa: RUF012
        "boxes": None, "labels": None, "masks": None, "semantic": None, "depth": None,
        "keypoints": Keypoints(("foot",), ()),
    }  # fmt: skip
    classes = {}  # noqa: RUF012

    def __init__(self, split: str = "train") -> None:
        self.split = split

    def __getitem__(self, index: int) -> Sample:
        rows, columns = np.mgrid[:SIDE, :SIDE]
        inside = (rows >= 20) & (rows < 80) & (columns >= 25) & (columns < 60)
        image = np.where(inside, 200, 60).astype(np.uint8)
        targets = {
            "image_id": 0,
            "boxes": torch.tensor([[25.0, 20.0, 60.0, 80.0]]),
            "labels": torch.tensor([0]),
            "masks": RunLengthMasks.from_dense([inside], (SIDE, SIDE)),
            "semantic": torch.from_numpy(inside.astype(np.uint8)),
            "depth": torch.from_numpy(np.where(inside, 2.0, 1.0).astype(np.float32)),
            "keypoints": torch.tensor([[[25.0, 80.0, 2.0]]]),  # a corner
        }
        return {"image": torch.from_numpy(np.stack([image] * 3)), "targets": targets}


def sections() -> Iterator[dict[str, Any]]:
    """All installed transforms as they are, and with each option that changes what they do."""
    names = registry.find("transforms")
    assert names.keys() >= {"default", "resized_crop", "stretch"}
    yield from ({"transforms": name} for name in names)
    yield from ({"transforms": name, "vertical_flip": True} for name in ("default", "detr"))
    yield {"transforms": {"name": "crop", "rotation": 40, "object_crops": 0.5, "min_visible": 0.2}}
    yield {"transforms": {"name": "resized_crop", "random_erasing": 1.0}}


def different(view: Sample, rotated: bool = False) -> str:
    """Which label of a view is not where its pixels are; empty if none. Erased and unlabelled pixels do not count."""
    targets = view["targets"]
    height, width = targets["size"]
    pixels = view["image"][:, :height, :width]
    label = targets["semantic"] == 1
    known = ~(pixels == ERASED).all(0) & (targets["semantic"] != 255)
    grey = pixels.float().mean(0)
    if min((known & label).sum(), (known & ~label).sum()) < 200:
        return ""  # a crop of one colour
    bright = known & (grey > (grey[known & label].median() + grey[known & ~label].median()) / 2)
    masks = targets["masks"]
    maps = {"semantic": label, "masks": torch.from_numpy(masks.union())}
    if "depth" in targets:
        depth = targets["depth"]
        maps["depth"] = depth > 1.5 * depth[depth > 0].min()
    for name, found in maps.items():
        iou = (bright & found & known).sum() / ((bright | found) & known).sum()
        if iou < 0.9:
            return f"{name}: IoU {iou:.2f}"
    boxes, extents = targets["boxes"].numpy(), masks.boxes()
    least = 0.6 if rotated else 0.9  # the box of a rotated box is cropped
    if (box_iou(torch.from_numpy(boxes), torch.from_numpy(extents).float()).diagonal() < least).any():
        return f"boxes: {boxes.tolist()} of masks in {extents.tolist()}"
    for x, y, seen in targets.get("keypoints", torch.zeros(0, 1, 3))[:, 0].tolist():
        row, column = int(y), int(x)
        near = bright[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5]
        if seen and known[min(row, height - 1), min(column, width - 1)] and (near.all() or not near.any()):
            return f"keypoints: ({x:.0f}, {y:.0f}) is not on the border of the rectangle"
    return ""


def views_of(transform: Any, data: Dataset, seeds: int = 8) -> Iterator[Sample]:
    for seed in range(seeds):
        found = transform(data[0], np.random.default_rng(seed), TargetTypes.of(data))
        yield from found if isinstance(found, list) else [found]


@pytest.mark.parametrize("values", [*sections()], ids=str)
def test_labels_follow_the_pixels_of_all_transforms(values):
    transform, _ = build_transforms(DataSection(name="scenes", image_size=SIDE, **values))
    if isinstance(transform, Augmentation):
        transform.check(Rectangle.provides, TargetTypes.of(Rectangle()))
    problems = [different(view, "rotation" in str(values)) for view in views_of(transform, Rectangle())]
    assert [problem for problem in problems if problem] == []


@pytest.mark.parametrize("name", registry.find("methods"))
def test_labels_follow_the_pixels_of_every_methods_views(name):
    """Views without labels of places have none to follow."""
    kind: type[Method] = registry.load("methods", name)
    options = {"crops": [(48, (0.4, 1.0), 1.0, 0.2)], "image_size": 48, "scale": (0.4, 1.0)}
    transform = kind.transform(SimpleNamespace(**options), Augmentation(DefaultTransforms(SIDE)))
    for view in views_of(transform, Rectangle()):
        located = [key for key in view["targets"] if key in Rectangle.provides]
        assert not located or different(view) == ""


COLOURS = ("Equalize", "Solarize", "CLAHE", "MotionBlur", "GaussNoise", "ImageCompression")
GEOMETRY = ("HorizontalFlip", "D4", "Rotate", "Perspective", "RandomGridShuffle", "ThinPlateSpline")


def test_what_moves_pixels_is_as_albumentations_has_it():
    """Of its transforms, which it divides into those of the image only and of the image with its labels."""
    import albumentations as A

    assert [name for name in COLOURS + GEOMETRY if reason_it_moves_pixels(getattr(A, name)(p=1))] == [*GEOMETRY]


class Tilted(DefaultTransforms):
    """A third party's transforms, whose colours rotate images."""

    def __init__(self, image_size: int, kind: str = "Rotate") -> None:
        import albumentations as A

        super().__init__(image_size)
        self.color_augmentation = [getattr(A, kind)(p=0.5)]


def data_of(name: str, **values: Any) -> DataSplits:
    section = {"name": name, "image_size": 32, **values}
    trainer = {"max_steps": 1}
    config = from_mapping({"backbone": {"name": "swin"}, "heads": {}, "data": section, "trainer": trainer}, "test")
    return DataSplits(config.data, 0, 32)


def test_moving_pixels_without_labels_is_refused_at_the_start():
    augmented = {"transforms": {"name": "resized_crop", "rand_augment": 0}}
    tilted = {"transforms": f"{__name__}:Tilted"}
    for values, message in (
        (augmented, r"data\.transforms\.rand_augment shears, translates and rotates"),
        (tilted, r"data\.transforms: the colour augmentation Rotate may move pixels"),
        (
            {"final_phase": {"start": 0.9, **tilted}},
            r"data\.transforms: the colour augmentation Rotate may move pixels",
        ),
    ):
        refused = rf"{message}.*, but labels have places in the image \(boxes, .*Fix: leave it out"
        with pytest.raises(ConfigError, match=refused):
            data_of(f"{__name__}:Rectangle", **values).check_splits()
