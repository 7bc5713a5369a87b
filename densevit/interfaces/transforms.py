"""The interface of transforms, which resize and augment images."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from densevit.constructor_call import Recorded
from densevit.interfaces.data_types import Size, Window


class CropAndSize(NamedTuple):
    """A window on an image, and its size after resizing.

    The window may extend beyond the image, but not lie outside: new pixels are black, in maps `fill`.
    """

    window: Window
    size: Size


class Transforms(Recorded):
    """The geometry and colours of training and evaluation images (`data.transforms`).

    The constructor takes `image_size`, the value of `data.image_size`: a side, (h, w) or None; and options. Training
    images are flipped horizontally (half of them), then rotated, cropped, resized and recoloured.

    augments: whether training images are augmented; False: resized as in evaluation.
    canvas: (h, w) that training images are padded to, or None. evaluation_canvas: the same for evaluation images.
    color_augmentation: random changes of colour: "none", "gentle", "photometric", or image-only transforms of
        albumentations. A transform that moves pixels is refused at the start, unless labels do not depend on position
        (`image_class`).
    rotation: the largest angle of a random rotation, in degrees in either direction.
    kept_objects: the objects of a window to keep: "visible", with a part inside, or "centred", with the box's centre
        inside.
    min_visible: objects with a smaller share of their box inside a window are left out.

    Example:
        >>> class Halved(densevit.Transforms):
        ...     def __init__(self, image_size): pass
        ...     def evaluation_size(self, height, width): return height // 2, width // 2
        >>> Halved(image_size=None).evaluation_size(480, 640)
        (240, 320)
    """

    augments: bool = True
    canvas: Size | None = None
    evaluation_canvas: Size | None = None
    color_augmentation: Any = "none"
    rotation: float = 0.0
    kept_objects: Literal["visible", "centred"] = "visible"
    min_visible: float = 0.0

    def evaluation_size(self, height: int, width: int) -> Size:
        """The size of an image after resizing for evaluation, without padding."""
        raise NotImplementedError(f"{type(self).__name__} is a Transforms and must implement evaluation_size().")

    def evaluation_bounds(self) -> Mapping[str, float] | None:
        """The evaluation size as bounds on sides (`height`, `width`, `short_side`, `long_side`), for the header of
        exported files: images are scaled by the smallest ratio of bound to side. {}: images keep their size.
        `exact_height` and `exact_width`: the size of all images, for any aspect ratio. Default: None, unknown.
        """
        return None

    def training_crop(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> CropAndSize:
        """Draws a random window on a training image, and its size after resizing.

        semantic: the label map (height, width) of the image, if it has one.
        """
        raise NotImplementedError(f"{type(self).__name__} is a Transforms and must implement training_crop().")

    def training_crop_with_boxes(
        self,
        height: int,
        width: int,
        rng: np.random.Generator,
        semantic: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
    ) -> CropAndSize:
        """`training_crop` for transforms that use the boxes. Default: `training_crop`.

        boxes: (N, 4) xyxy in pixels of the image, if it has them; without crowds and boxes without area.
        """
        return self.training_crop(height, width, rng, semantic)

    def rescale(self, factor: float) -> None:
        """Adapts to `image_size` times `factor`, in multi-scale training (`data.multi_scale`), so that images show the
        same content. Default: nothing, for crops that follow `image_size`."""
