"""The transforms of RT-DETR and D-FINE: images of one size; the aspect ratio is not kept."""

from typing import Literal

import numpy as np

from densevit.errors import ConfigError
from densevit.interfaces import CropAndSize, Size, Transforms, Window

# Of the training images, the share with a border and the share that is cropped.
ENLARGED, CROPPED = 0.5, 0.8
_LARGEST = 4.0  # ratio of the sides of an image with its border to the image's sides
_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # least IoU of a crop with a box; 1.0: the whole image
_SIDES, _ASPECT = (0.3, 1.0), (0.5, 2.0)  # of a crop: its sides relative to the image's, and their ratio
_TRIES = 40


class Stretch(Transforms):
    """Resizes images to `image_size` whatever their aspect ratio, in training with SSD's border and crop (Liu et al.
    2016, section 2.2), like torchvision's RandomZoomOut and RandomIoUCrop.

    Half of the images are placed at random on an empty image (RGB: black) of up to four times their sides; then 80 %
    are cropped by `iou_crop`. Objects are kept if the centre of their box is in the crop.

    image_size: (h, w), or the side of a square.
    """

    color_augmentation = "photometric"
    kept_objects: Literal["visible", "centred"] = "centred"

    def __init__(self, image_size: int | Size | None) -> None:
        if image_size is None:
            raise ConfigError("data.image_size is missing: set [height, width], or the side of a square.")
        self.size: Size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.canvas = self.evaluation_canvas = self.size

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size of all images."""
        return self.size

    def evaluation_bounds(self) -> dict[str, float]:
        return {"exact_height": self.size[0], "exact_width": self.size[1]}

    def training_crop_with_boxes(
        self,
        height: int,
        width: int,
        rng: np.random.Generator,
        semantic: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
    ) -> CropAndSize:
        """Returns the crop of the image with its border. Images without boxes are not cropped."""
        top, left = 0, 0  # of the image, inside its border
        h, w = height, width
        if rng.random() < ENLARGED:
            ratio = rng.uniform(1, _LARGEST)
            h, w = int(height * ratio), int(width * ratio)
            top, left = int(rng.uniform(0, h - height)), int(rng.uniform(0, w - width))
        window: Window = (0, 0, h, w)
        if rng.random() < CROPPED and boxes is not None:
            window = iou_crop(boxes + np.array([left, top, left, top]), (h, w), rng)
        return CropAndSize((window[0] - top, window[1] - left, window[2] - top, window[3] - left), self.size)


def iou_crop(boxes: np.ndarray, size: Size, rng: np.random.Generator) -> Window:
    """Returns a random window that contains the centre of a box and whose IoU with this box is at least a random bound;
    or the whole image.

    Sides are 0.3 to 1 of the image's and their ratio is 0.5 to 2. boxes: (N, 4) xyxy in pixels.
    """
    height, width = size
    while len(boxes):
        overlap = _OVERLAPS[int(rng.integers(len(_OVERLAPS)))]
        if overlap == 1:
            break
        h, w = (rng.uniform(*_SIDES, size=(2, _TRIES)) * [[height], [width]]).astype(int)
        top, left = (rng.random((2, _TRIES)) * [height - h, width - w]).astype(int)
        windows = np.stack([top, left, top + h, left + w], axis=1)  # (40, 4)
        usable = (np.minimum(h, w) > 0) & (w >= _ASPECT[0] * h) & (w <= _ASPECT[1] * h)
        indices = np.flatnonzero(usable & (_largest_overlap(windows, boxes) >= overlap))
        if len(indices):
            first, begin, last, end = windows[indices[0]].tolist()
            return (first, begin, last, end)
    return (0, 0, height, width)


def _largest_overlap(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the largest IoU (W,) of each window (W, 4) with a box (N, 4) xyxy whose centre it contains; -1: none."""
    windows = windows[:, None, [1, 0, 3, 2]]  # (W, 1, 4) xyxy
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > windows[..., :2]) & (centres < windows[..., 2:])).all(axis=2)  # (W, N)
    low, high = np.maximum(windows[..., :2], boxes[:, :2]), np.minimum(windows[..., 2:], boxes[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(corners[..., 2:] - corners[..., :2]).prod(axis=-1) for corners in (windows, boxes)]
    union = areas[0] + areas[1] - common
    return np.where(inside, common / np.maximum(union, 1e-9), -1).max(axis=1)


class PlainStretch(Stretch):
    """Resizes whole images to `image_size` and keeps their colours: for the last epochs (`data.final_phase`)."""

    color_augmentation = "none"

    def training_crop_with_boxes(
        self,
        height: int,
        width: int,
        rng: np.random.Generator,
        semantic: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
    ) -> CropAndSize:
        """Returns the whole image."""
        return CropAndSize((0, 0, height, width), self.size)
