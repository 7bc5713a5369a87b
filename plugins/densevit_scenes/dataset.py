"""The built-in data set: images of solids that occlude one another, rendered on the fly, with exact labels."""

from typing import Literal

import numpy as np
import torch

from densevit import RunLengthMasks
from densevit.errors import DataError
from densevit.interfaces import LABEL_DIVISOR, VOID, Class, Dataset, Sample, Targets
from densevit_scenes.normals import surface_normals
from densevit_scenes.renderer import Rendering, render
from densevit_scenes.scene import Scene
from densevit_scenes.scene_layout import draw_scene
from densevit_scenes.thing_classes import THINGS

Split = Literal["train", "val", "test"]

STREAMS = {"train": 0, "val": 1, "test": 2}  # random stream of each split; splits share no scene
LEAST_SIDE = 32  # pixels
WIDEST = 150  # degrees
MAX_LENGTH = 100_000_000  # images; the indices of an epoch stay in memory

FEWEST_PIXELS = 24
LEAST_VISIBLE = 0.2

_THING_COLORS = (
    (220, 60, 60), (240, 150, 40), (235, 210, 70), (120, 190, 70),
    (60, 170, 160), (70, 120, 220), (150, 90, 200), (230, 120, 180),
)  # fmt: skip
_SURFACE_COLORS = {"floor": (150, 120, 90), "ground": (100, 130, 80), "wall": (190, 185, 175), "sky": (150, 200, 240)}

_DETECTION = tuple(Class(name, i, color) for i, (name, color) in enumerate(zip(THINGS, _THING_COLORS, strict=True), 1))
_SEGMENTATION = _DETECTION + tuple(
    Class(name, i, color, thing=False) for i, (name, color) in enumerate(_SURFACE_COLORS.items(), len(THINGS) + 1)
)
_FLOOR, _GROUND, _WALL, _SKY = range(len(THINGS), len(_SEGMENTATION))
_INDOORS, _OUTDOORS = (np.array([ground, _WALL, _WALL, _SKY], np.uint8) for ground in (_FLOOR, _GROUND))


class Scenes(Dataset):
    """Rendered scenes: textured solids in rooms and outdoors, with boxes, masks, semantic map and depth.

    image_size: the side, or (height, width), in pixels; at least 32.
    train_length, val_length: number of images of each split. Images are rendered on access.
    seed: seed of the scenes. An image depends only on seed, split and index, and is bit-identical in any process and on
        any machine.
    masks, semantic, depth, panoptic, normals: whether targets contain these labels. With depth, also `focal`.
    field_of_view: the angle in degrees that the longer side of an image shows, or its range [low, high], of which each
        image has a random one: the same scenes seen through other lenses. None: the lens for which each was composed,
        from 35 to 51.

    Boxes, masks and area cover the visible part inside the image. A thing with fewer than 24 visible pixels, or less
    than 20 % visible, is not annotated as an object: it is part of the semantic map and the depth map, and void in the
    panoptic map. Depth is along the optical axis, at the centre of the pixel; 0 (unknown) in the sky and beyond 60 m.
    """

    def __init__(
        self,
        split: Split,
        image_size: int | tuple[int, int] = 128,
        train_length: int = 4000,
        val_length: int = 500,
        seed: int = 0,
        masks: bool = True,
        semantic: bool = True,
        depth: bool = True,
        panoptic: bool = False,
        normals: bool = False,
        field_of_view: float | tuple[float, float] | None = None,
    ) -> None:
        if split not in STREAMS:
            raise DataError(f"scenes has no split {split!r}, only {', '.join(STREAMS)}. Fix: data.val_split=val.")
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < LEAST_SIDE:
            raise DataError(f"data.image_size is {image_size}; scenes are at least {LEAST_SIDE} pixels high and wide.")
        for option, length in {"train_length": train_length, "val_length": val_length}.items():
            if not 1 <= length <= MAX_LENGTH:
                raise DataError(f"data.{option} is {length}; expected 1 to {MAX_LENGTH:,} images.")
        if seed < 0:
            raise DataError(f"data.seed is {seed}; expected 0 or more.")
        self.views = (field_of_view, field_of_view) if isinstance(field_of_view, float | int) else field_of_view
        if self.views is not None and not 0 < self.views[0] <= self.views[1] < WIDEST:
            raise DataError(
                f"data.field_of_view is {field_of_view}; an angle above 0 and below {WIDEST} degrees, or a range [low, "
                "high] of it, is expected."
            )
        self.split, self.height, self.width, self.seed = split, height, width, seed
        self.length = train_length if split == "train" else val_length
        wanted = {"masks": masks, "semantic": semantic, "depth": depth, "panoptic": panoptic, "normals": normals}
        self.provides = ("boxes", "labels", *(key for key, on in wanted.items() if on))
        self.classes = {"detection": _DETECTION, "segmentation": _SEGMENTATION, "panoptic": _SEGMENTATION}

    def __len__(self) -> int:
        return self.length

    def sizes(self) -> np.ndarray:
        """Returns the height and width of each image, (N, 2); all images have the same size."""
        return np.tile(np.array([self.height, self.width]), (self.length, 1))

    def scene(self, index: int) -> Scene:
        """Returns the scene of an image: poses, colours, textures and light."""
        if not 0 <= index < self.length:
            raise IndexError(f"scenes has images 0 to {self.length - 1}, not {index}.")
        return draw_scene(self.seed, STREAMS[self.split], index, self.height, self.width, self.views)

    def __getitem__(self, index: int) -> Sample:
        """Returns the sample, with `area` and `iscrowd` (no object is a crowd); image_id is index + 1."""
        scene = self.scene(index)
        rendering = render(scene, self.height, self.width)
        targets: Targets = {"image_id": index + 1} | _objects(scene, rendering, "masks" in self.provides)
        if "semantic" in self.provides:
            targets["semantic"] = torch.from_numpy(_semantic(scene, rendering))
        if "panoptic" in self.provides:
            targets["panoptic"] = torch.from_numpy(_panoptic(scene, rendering))
        if "depth" in self.provides:
            targets["depth"] = torch.from_numpy(rendering.depth)
            targets["focal"] = scene.camera.focal * max(self.height, self.width)
        if "normals" in self.provides:
            targets["normals"] = torch.from_numpy(surface_normals(scene.camera, rendering.depth))
        return {"image": torch.from_numpy(rendering.image), "targets": targets}


def annotated(rendering: Rendering) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the things annotated as objects, and the number of visible pixels of each."""
    visible = np.bincount(rendering.owner.ravel(), minlength=len(rendering.silhouettes) + 1)[1:]
    numbers = np.flatnonzero((visible >= FEWEST_PIXELS) & (visible >= LEAST_VISIBLE * rendering.silhouettes))
    return numbers, visible[numbers]


def _objects(scene: Scene, rendering: Rendering, with_masks: bool) -> Targets:
    numbers, visible = annotated(rendering)
    masks = RunLengthMasks.from_ids(rendering.owner, numbers + 1)
    objects: Targets = {
        "boxes": torch.from_numpy(masks.boxes()),
        "labels": torch.tensor([scene.things[number].label for number in numbers], dtype=torch.int64),
        "area": torch.from_numpy(visible.astype(np.float32)),
        "iscrowd": torch.zeros(len(numbers), dtype=torch.bool),
    }
    return objects | {"masks": masks} if with_masks else objects


def _semantic(scene: Scene, rendering: Rendering) -> np.ndarray:
    """Returns the semantic map (H, W) uint8."""
    semantic = (_INDOORS if scene.walls else _OUTDOORS).take(rendering.surface)
    label_of_owner = np.array([0, *(thing.label for thing in scene.things)], np.uint8)
    np.copyto(semantic, label_of_owner.take(rendering.owner), where=rendering.owner > 0)
    return semantic


def _panoptic(scene: Scene, rendering: Rendering) -> np.ndarray:
    """Returns (H, W) int32 panoptic ids: annotated things are numbered per class, surfaces have number 0, and other
    things are void.
    """
    surfaces = (_INDOORS if scene.walls else _OUTDOORS).take(rendering.surface).astype(np.int32) * LABEL_DIVISOR
    id_of_owner = np.full(len(scene.things) + 1, VOID, np.int32)
    count = [0] * len(THINGS)
    for number in annotated(rendering)[0].tolist():
        label = scene.things[number].label
        id_of_owner[number + 1] = label * LABEL_DIVISOR + count[label]
        count[label] += 1
    return np.where(rendering.owner > 0, id_of_owner.take(rendering.owner), surfaces)
