"""The augmentation of the last epochs of D-FINE's recipes (`data.final_phase`)."""

import numpy as np

from densevit.interfaces import Frame
from densevit_heads.rtdetr.augmentation import Stretch


class PlainStretch(Stretch):
    """Resizes images to `image_size` whatever their aspect ratio, without crops and changes of colour."""

    recoloring = "none"

    def training_frame(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> Frame:
        """Returns the whole image."""
        return Frame((0, 0, height, width), self.size)
