"""Random augmentation for training, by albumentations, with workarounds for its handling of boxes.

albumentations raises on a box just outside of its image and on one without area after a crop, and it drops boxes
without their labels and masks. So boxes are clipped first (`plain_objects`), each carries its row number as a fifth
column, and labels and masks are selected by the remaining numbers.
"""

import math
import os
import random
from typing import Any

import cv2
import numpy as np
import torch

from densevit.data.transforms.recipes import Recipe, Recoloring, Size, Window
from densevit.data.transforms.resizing import (
    MAP_KEYS,
    OBJECT_KEYS,
    finished,
    plain_objects,
    resize_image,
    resize_map,
    resize_masks,
    to_pixels,
)
from densevit.interfaces import IGNORE, Sample

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import looks for updates over the network

import albumentations as A
from albumentations.core.type_definitions import Targets

_LEAST_SIDE = 1e-3  # pixels; a narrower clipped box is a rounding error


class Augmentation:
    """Flips, crops, resizes and recolours a sample as a recipe says.

    rotation: images are rotated by up to so many degrees in either direction before the crop.
    """

    def __init__(self, recipe: Recipe, rotation: float = 0.0) -> None:
        turned = [Turn(rotation)] if rotation else []
        steps = [A.HorizontalFlip(p=0.5), *turned, Reframe(recipe), *recolored(recipe.recoloring)]
        self._canvas = recipe.canvas
        self._compose = A.Compose(
            steps,
            bbox_params=A.BboxParams(
                "pascal_voc", check_each_transform=False, min_width=_LEAST_SIDE, min_height=_LEAST_SIDE
            ),
            additional_targets=dict.fromkeys(MAP_KEYS, "mask"),
            is_check_shapes=False,
        )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Returns the augmented sample: targets on the new grid, without crowds and cropped objects, with `size` and
        `original_size`.

        An object is kept where part of its box is inside; with masks, where a pixel of its mask is.
        """
        pixels, targets = to_pixels(sample["image"]), plain_objects(sample)
        given: dict[str, Any] = {"image": pixels} | {key: targets[key].numpy() for key in MAP_KEYS if key in targets}
        if "boxes" in targets:
            boxes = targets["boxes"].double().numpy()
            given["bboxes"] = np.column_stack([boxes, np.arange(len(boxes))])
        if len(targets.get("masks", ())):
            given["masks"] = targets["masks"].numpy().view(np.uint8)
        # One stream for all steps: `set_random_seed` gives each its own copy, and the flip's coin decides the colours.
        self._compose.set_random_state(rng, random.Random(int(rng.integers(2**32))))
        taken = self._compose(**given)
        size = taken["image"].shape[:2]
        targets |= {key: torch.from_numpy(taken[key]) for key in MAP_KEYS if key in targets}
        if "masks" in targets:
            targets["masks"] = torch.from_numpy(taken.get("masks", np.zeros((0, *size), np.uint8)).view(bool))
        if "boxes" in targets:
            boxes = torch.from_numpy(taken["bboxes"])
            if not len(boxes):
                boxes = boxes.new_zeros((0, 5))  # where it drops all rows, albumentations drops the fifth column too
            rows = boxes[:, 4].long()
            targets["boxes"] = boxes[:, :4].float()
            targets |= {key: targets[key][rows] for key in ("labels", "masks") if key in targets}
        if "masks" in targets:
            visible = torch.from_numpy(targets["masks"].numpy().any(axis=(1, 2)))
            targets |= {key: targets[key][visible] for key in OBJECT_KEYS if key in targets}
        return finished(taken["image"], targets, (pixels.shape[0], pixels.shape[1]), self._canvas)


def recolored(recoloring: Recoloring) -> list[Any]:
    """Random changes of brightness, contrast and colour, each in half of the images.

    photometric: SSD's (Liu et al. 2016) as mmsegmentation has it, with contrast either before or after the colours:
    brightness by up to 32 of 255, contrast and saturation by 0.5 to 1.5, hue by up to 18 of OpenCV's 180. Saturation is
    torchvision's, a blend with grey, where mmsegmentation multiplies that of HSV; numbers are rounded after each step.
    """
    if recoloring == "none":
        return []
    if recoloring == "gentle":
        return [A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5)]
    plain = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    brightness = A.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0, p=0.5)
    contrast = A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.5, p=0.5)
    saturation = A.ColorJitter(**plain | {"saturation": (0.5, 1.5)}, p=0.5)
    hue = A.ColorJitter(**plain | {"hue": 18 / 180}, p=0.5)
    orders = ([brightness, contrast, saturation, hue], [brightness, saturation, hue, contrast])
    return [A.OneOf([A.Sequential(order) for order in orders], p=1)]


class Turn(A.DualTransform):
    """Rotates an image about its centre without changing its size. New corners are black and unlabelled.

    Labels and depth take the nearest pixel. Depth values do not change: the camera rotates about its optical axis.
    """

    _targets = (Targets.IMAGE, Targets.MASK, Targets.BBOXES)

    def __init__(self, limit: float) -> None:
        super().__init__(p=1.0)
        self.limit = limit

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draws the angle."""
        height, width = params["shape"][:2]
        angle = float(self.random_generator.uniform(-self.limit, self.limit))
        return {"matrix": cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """img: (H, W, 3) uint8."""
        return cv2.warpAffine(img, matrix, img.shape[1::-1], flags=cv2.INTER_LINEAR, borderValue=0)

    def apply_to_mask(self, mask: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """mask: (H, W), labels or, the floating ones, metres."""
        unknown = 0 if mask.dtype.kind == "f" else IGNORE
        return cv2.warpAffine(mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=unknown)

    def apply_to_masks(self, masks: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """masks: (N, H, W), N > 0."""
        size = masks.shape[:0:-1]
        return np.stack([cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST) for mask in masks])

    def apply_to_bboxes(self, bboxes: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """bboxes: (N, 5), xyxy as fractions of the image and a row number. Returns boxes around the rotated ones."""
        height, width = params["shape"][:2]
        corners = bboxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) * (width, height) - 0.5  # of pixel centres
        corners = (corners @ matrix[:, :2].T + matrix[:, 2] + 0.5) / (width, height)
        return np.column_stack([corners.min(1), corners.max(1), bboxes[:, 4:]])


class Reframe(A.DualTransform):
    """Crops the recipe's random window and resizes it, in one resampling.

    Depth is divided by the zoom relative to evaluation: an enlarged object looks nearer, as through a longer lens.
    """

    _targets = (Targets.IMAGE, Targets.MASK, Targets.BBOXES)

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(p=1.0)
        self.recipe = recipe

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draws the window and the size."""
        height, width = params["shape"][:2]
        frame = self.recipe.training_frame(height, width, self.random_generator, data.get("semantic"))
        top, left, bottom, right = frame.window
        scale = math.prod(frame.size) / ((bottom - top) * (right - left))
        usual = math.prod(self.recipe.evaluation_size(height, width)) / (height * width)
        return {**frame._asdict(), "zoom": math.sqrt(scale / usual)}

    def apply(self, img: np.ndarray, window: Window, size: Size, **params: Any) -> np.ndarray:
        """img: (H, W, 3) uint8."""
        top, left, bottom, right = window
        return resize_image(img[top:bottom, left:right], size)

    def apply_to_mask(self, mask: np.ndarray, window: Window, size: Size, zoom: float, **params: Any) -> np.ndarray:
        """mask: (H, W), labels or, the floating ones, metres. zoom: a side, against evaluation's."""
        top, left, bottom, right = window
        resized = resize_map(mask[top:bottom, left:right], size)
        return resized / np.float32(zoom) if resized.dtype.kind == "f" and zoom != 1 else resized

    def apply_to_masks(self, masks: np.ndarray, window: Window, size: Size, **params: Any) -> np.ndarray:
        """masks: (N, H, W), N > 0."""
        top, left, bottom, right = window
        return resize_masks(masks[:, top:bottom, left:right], size)

    def apply_to_bboxes(self, bboxes: np.ndarray, window: Window, size: Size, **params: Any) -> np.ndarray:
        """bboxes: (N, 5), xyxy as fractions of the image and a row number; returned as fractions of the window."""
        top, left, bottom, right = window
        height, width = params["shape"][:2]
        corner = np.array([left, top, left, top]) / (width, height, width, height)
        extent = np.array([right - left, bottom - top] * 2) / (width, height, width, height)
        return np.column_stack([(bboxes[:, :4] - corner) / extent, bboxes[:, 4:]])
