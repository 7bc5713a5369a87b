"""The interface of transforms: how images are resized and augmented."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from densevit.interfaces.data_types import Size, Window


class Frame(NamedTuple):
    """A window on an image, and the size to which it is resized.

    The window may extend beyond the image, but not lie outside: new pixels are black, those of maps have `fill`.
    """

    window: Window
    size: Size


class Transforms:
    """The geometry and colours of training and evaluation images (`data.transforms`).

    The constructor takes `image_size`, which is `data.image_size`: a side, (h, w) or None; and its own options. Half of
    the training images are flipped horizontally, then rotated, cropped, resized and recoloured.

    augments: whether training images are augmented; False: they are resized as in evaluation.
    canvas: (h, w) to which training images are padded, or None. evaluation_canvas: (h, w) to which evaluation images
        are padded, or None.
    recoloring: random changes of colour: "none", "gentle", "photometric", or image-only transforms of albumentations. A
        transform that moves pixels is refused at the start, unless labels have no place in the image (`image_class`).
    rotation: the largest angle of a random rotation, in degrees in either direction.
    kept_objects: which objects of a window are kept: "visible", all with a part inside, or "centred", those whose box
        has its centre inside.
    min_visible: the least share of an object's box that is inside a window, below which the object is left out.
    """

    augments: bool = True
    canvas: Size | None = None
    evaluation_canvas: Size | None = None
    recoloring: Any = "none"
    rotation: float = 0.0
    kept_objects: Literal["visible", "centred"] = "visible"
    min_visible: float = 0.0

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size to which an image is resized for evaluation, without padding."""
        raise NotImplementedError(f"{type(self).__name__} is a Transforms and must implement evaluation_size().")

    def evaluation_bounds(self) -> Mapping[str, float] | None:
        """The evaluation size as bounds on sides (`height`, `width`, `short_side`, `long_side`), for the header of
        exported files: an image is scaled by the smallest ratio of a bound to its side. {}: images keep their size.
        `exact_height` and `exact_width`: the size of all images, whatever their aspect ratio. Default: None, unknown.
        """
        return None

    def training_frame(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> Frame:
        """Draws the window on a training image and the size to which it is resized.

        semantic: the label map (height, width) of the image, if it has one.
        """
        raise NotImplementedError(f"{type(self).__name__} is a Transforms and must implement training_frame().")

    def training_frame_with_boxes(
        self,
        height: int,
        width: int,
        rng: np.random.Generator,
        semantic: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
    ) -> Frame:
        """Like `training_frame`, for transforms that look at the boxes. Default: `training_frame`.

        boxes: (N, 4) xyxy in pixels of the image, if it has them; without crowds and boxes without area.
        """
        return self.training_frame(height, width, rng, semantic)

    def rescale(self, factor: float) -> None:
        """Adapts to an `image_size` that is `factor` times the config's, in multi-scale training (`data.multi_scale`),
        so that images show the same content. Default: nothing, for frames that follow `image_size`."""
