"""Modules of the task template: data set, target type, head and evaluator, to be replaced by your own.

The example predicts the direction of stripes at each pixel.
"""

MODULE = '''\
"""A task for densevit: the direction of stripes at each pixel."""
'''

DATA = '''\
"""The data set: images and their labels."""

import densevit
import numpy as np
import torch
from densevit.interfaces import Sample

from $name.target import vectors

STREAMS = {"train": 0, "val": 1}  # random numbers of each split


class ${cls}Data(densevit.Dataset):
    """Rendered discs with stripes on grey ground; the ground has no label.

    To be replaced by your files: an option `root` in place of the sizes, a list of the split's files, and in
    `__getitem__` the image (`densevit.data.io.images.read_image`) and its label, both in the pixels of the file.
    """

    provides = ("$name",)  # the keys of the targets that are labels; each has a target type

    # densevit passes the split. The others are options in YAML, checked against their annotations.
    def __init__(self, split: str, side: int = 64, length: int = 2000, val_length: int = 100) -> None:
        if split not in STREAMS:
            raise densevit.DataError(f"$name has no split {split!r}, only {', '.join(STREAMS)}.")
        # Of the head's task. A class is a `densevit.Class(name, file_id, color)`.
        self.classes = {"$name": ()}
        self.stream, self.side, self.length = STREAMS[split], side, val_length if split == "val" else length

    def __len__(self) -> int:
        return self.length

    def sizes(self) -> np.ndarray:
        """Heights and widths (N, 2), if known without reading images: evaluation then batches images of equal size."""
        return np.full((self.length, 2), self.side)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.stream, index])
        y, x = np.mgrid[: self.side, : self.side] + 0.5  # (H, W) each, of the pixels' centres
        image = np.full((3, self.side, self.side), rng.uniform(60, 200))
        angle = np.full((self.side, self.side), np.nan)
        for _ in range(rng.integers(2, 6)):
            (cx, cy), radius = rng.uniform(0, self.side, 2), self.side * rng.uniform(0.15, 0.3)
            disc = np.hypot(x - cx, y - cy) < radius
            direction, period = rng.uniform(0, np.pi), rng.uniform(5, 9)
            wave = np.sin(2 * np.pi / period * (np.cos(direction) * y - np.sin(direction) * x))
            image[:, disc] = rng.uniform(60, 200, (3, 1)) + 50 * wave[disc]
            angle[disc] = direction
        image += rng.normal(0, 20, image.shape)
        targets = {"image_id": index + 1, "$name": torch.from_numpy(vectors(angle))}
        return {"image": torch.from_numpy(image.clip(0, 255).astype(np.uint8)), "targets": targets}
'''

TARGET = '''\
"""The target type: how a label follows its image, and how it is drawn and written."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from densevit.interfaces import Class, Drawing, Size
from densevit.targets import PixelMap


class ${cls}Map(PixelMap):
    """(2, H, W) float32: cos 2a and sin 2a of the angle a from the x axis to the stripes, clockwise; 0 = unknown.

    Twice the angle, because stripes at a and a + pi are the same. A `PixelMap` is cropped, padded and resized with its
    image. To be replaced by the methods that your values need; for values that do not change with the geometry by
    `densevit.targets.ValueMap`, and for labels of objects or images by a `densevit.TargetType`.
    """

    channels = 2

    def hflip(self, value: np.ndarray, size: Size) -> np.ndarray:
        """In the mirror, a becomes -a."""
        flipped = super().hflip(value, size)
        flipped[1] *= -1
        return flipped

    def rotate(self, value: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
        """matrix: (2, 3), from pixels of the image to those of the rotated image."""
        return vectors(angles(super().rotate(value, matrix, size)) + np.arctan2(matrix[1, 0], matrix[0, 0]))

    def resize(self, value: np.ndarray, size: Size, new_size: Size, zoom: float = 1.0) -> np.ndarray:
        """Angles change if the image is stretched."""
        angle = angles(super().resize(value, size, new_size))
        height, width = new_size[0] / size[0], new_size[1] / size[1]
        return vectors(np.arctan2(height * np.sin(angle), width * np.cos(angle)))

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """The angle as hue, beside the image; unknown is black."""
        for caption, values in (("truth", truth), ("prediction", predictions)):
            if values is not None and key in values:
                angle = angles(values[key])
                hue = np.nan_to_num(np.rad2deg(angle) % 180).astype(np.uint8)  # OpenCV's hue is 0 ... 179
                full = np.full_like(hue, 255)
                hsv = np.stack([hue, full, np.where(np.isnan(angle), 0, full)], axis=-1)
                drawing.panel(f"{key}, {caption}", cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, Any]:
        """The files of a prediction, by suffix."""
        return {".npy": value.astype(np.float32, copy=False)}

    def decode(self, encoded: Mapping[str, Any], classes: Sequence[Class]) -> np.ndarray:
        return np.asarray(encoded[".npy"])

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        """For `densevit check`. The left quarter is unknown, and without objects all."""
        angle = rng.uniform(0, np.pi, size)
        angle[:, : size[1] // 4 if objects else None] = np.nan
        return vectors(angle)


def vectors(angle: np.ndarray) -> np.ndarray:
    """(2, H, W) cos 2a and sin 2a of angles (H, W) in radians; 0 where they are nan."""
    return np.nan_to_num(np.stack([np.cos(2 * angle), np.sin(2 * angle)])).astype(np.float32)


def angles(value: np.ndarray) -> np.ndarray:
    """Inverse of `vectors`, for vectors of any length: angles in -pi/2 ... pi/2."""
    return np.where((value != 0).any(axis=0), np.arctan2(value[1], value[0]) / 2, np.nan)
'''

HEAD = '''\
"""The head: from features to outputs, losses and predictions."""

from collections.abc import Sequence

import densevit
import torch
from densevit.interfaces import LossContext, Losses, Outputs, Predictions, Targets
from torch import Tensor, nn
from torch.nn import functional

from $name.target import ${cls}Map


class ${cls}Head(densevit.DenseHead):
    """Vectors from all features, each projected to the finest one and added up.

    To be replaced by your layers and loss. A head that predicts no maps is a `densevit.Head`: it has `forward`, `loss`
    and `predict`, and not `maps` and `read_maps`.
    """

    task = "$name"  # selects the classes of the data set and the evaluator
    required_targets = ("$name",)  # target keys; data without them are an error at the start

    # densevit passes the first three arguments. The others are options in YAML, checked against their annotations.
    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[densevit.Class],
        width: int = 64,
    ) -> None:
        super().__init__(channels, strides, classes)
        self.stride = strides[0]
        self.projections = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.layers = nn.Sequential(nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 2, 1))

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`vectors` (B, 2, ceil(H / s), ceil(W / s)), of any length; s is the stride of the finest feature."""
        finest = features[0].shape[-2:]
        levels = [project(x) for project, x in zip(self.projections, features, strict=True)]
        x = torch.stack([functional.interpolate(x, finest, mode="bilinear") for x in levels]).sum(0)
        return {"vectors": self.layers(x)}

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Vectors (B, 2, *size): from the grid of the stride to its pixels, cropped at the top left."""
        x = outputs["vectors"].float()
        full = self.stride * x.shape[2], self.stride * x.shape[3]
        x = functional.interpolate(x, full, mode="bilinear")
        return x[..., : size[0], : size[1]]

    def read_maps(self, maps: Tensor) -> Predictions:
        """Unit vectors, from maps that may be means over windows, flips and scales."""
        return {"$name": functional.normalize(maps, dim=1)}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`cosine`: 1 - cos 2d, where d is the angle between prediction and label, averaged over labelled pixels."""
        height, width = (max(target["size"][axis] for target in targets) for axis in (0, 1))
        predicted = functional.normalize(self.maps(outputs, (height, width)), dim=1)
        labels = [target.get("$name") for target in targets]
        truth = ${cls}Map().collate(labels, (height, width), predicted.device)
        labelled = (truth != 0).any(dim=1)  # (B, H, W), False in the padding and in images without the label
        [pixels] = context.mean_counts(pixels=labelled.sum().float())  # of all processes and accumulated batches
        cosine = (predicted * truth).sum(1)
        return {"cosine": (labelled * (1 - cosine)).sum() / pixels.clamp(min=context.min_normalizer())}

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        """The numbers by which `loss` divides, from the targets alone."""
        labels = [target["$name"] for target in targets if "$name" in target]
        return {"pixels": float(sum((label != 0).any(dim=0).sum() for label in labels))}

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """The maps (2, h, w) of each image, cropped to its `size`, then resized to its `original_size`."""
        predictions = []
        for vectors, target in zip(outputs["vectors"], targets, strict=True):
            maps = self.maps({"vectors": vectors[None]}, target["size"])  # (1, 2, h, w)
            maps = functional.interpolate(maps, tuple(target["original_size"]), mode="bilinear")
            predictions.append({"$name": self.read_maps(maps)["$name"][0]})
        return predictions
'''

EVALUATION = '''\
"""The evaluator: metrics of predictions over a data set."""

from collections.abc import Sequence

import densevit
import torch
from densevit.interfaces import Predictions, Targets


class ${cls}Error(densevit.Evaluator):
    """The angle between predicted and true stripes over all known pixels. A constant prediction has 45 and 0.11.

    Metrics: error, the mean in degrees, 0 ... 90; and below10, the fraction of pixels with less than 10.
    To be replaced by your metrics. A head is evaluated by the evaluator with the name of its task.
    """

    reads = ("$name",)
    main = "error"  # determines the best epoch
    lower_is_better = ("error",)

    def record(self, prediction: Predictions, truth: Targets) -> tuple[int, float, int] | None:
        """The known pixels, the sum of their errors, and those below 10. Both maps have the size of the original image.
        None: without labels."""
        if "$name" not in truth:
            return None
        label = torch.as_tensor(truth["$name"]).double()
        cosine = torch.cosine_similarity(prediction["$name"].to(label), label, dim=0)
        errors = (cosine.clamp(-1, 1).acos() / 2).rad2deg()[(label != 0).any(dim=0)]
        return len(errors), float(errors.sum()), int((errors < 10).sum())

    def compute(self, records: Sequence[tuple[int, float, int]]) -> dict[str, float]:
        """The mean over all pixels of all images; nan without known pixels."""
        pixels, total, below = torch.tensor(records, dtype=torch.float64).reshape(-1, 3).sum(0)
        return {"error": float(total / pixels), "below10": float(below / pixels)}

    def image_scores(self, records: Sequence[tuple[int, float, int]], threshold: float = 0.5) -> list[float | None]:
        """The score of each image, higher is better: the report shows the best and the worst images."""
        return [-total / pixels if pixels else None for pixels, total, _ in records]
'''
