"""The images that target types draw on."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from densevit.interfaces.data_types import Class, Color


class Canvas(Protocol):
    """An image that a `TargetType` draws on. Coordinates are in pixels of the original image."""

    def overlay(self, colors: np.ndarray, mask: np.ndarray) -> None:
        """Blends colours (H, W, 3) uint8 with the image where mask (H, W) is True."""

    def segments(self, ids: np.ndarray, colors: Mapping[int, Color], names: Mapping[int, str]) -> None:
        """Blends the segments of an id map (H, W) with the image, with outlines and names.

        Leaves pixels without a colour unchanged. Segments of one colour get different shades.
        """

    def boxes(self, boxes: np.ndarray, colors: Sequence[Color], texts: Sequence[tuple[str, str]]) -> None:
        """Outlines boxes (N, 4) xyxy, the first on top. texts: (name, suffix); only names may be shortened."""

    def points(self, points: np.ndarray, color: Color) -> None:
        """Draws discs at points (N, 2)."""

    def lines(self, lines: np.ndarray, color: Color) -> None:
        """Draws line segments (N, 2, 2), from point to point."""

    def caption(self, name: str, suffix: str, color: Color) -> None:
        """Writes a label in the upper left corner; only the name may be shortened."""


class Drawing(Protocol):
    """Drawing surfaces for a `TargetType`: the image for predictions, and for ground truth if there is any."""

    @property
    def prediction(self) -> Canvas:
        """The image for predictions."""

    @property
    def truth(self) -> Canvas | None:
        """The image for ground truth; None without ground truth."""

    def legend(self, classes: Sequence[Class]) -> None:
        """Adds the classes to the legend below the image."""

    def panel(self, caption: str, pixels: np.ndarray) -> None:
        """Adds an image (H, W, 3) uint8 next to the others."""

    def value_maps(
        self, prediction: np.ndarray, truth: np.ndarray | None, unit: str = "m", inverse: bool = False
    ) -> None:
        """Adds maps (H, W) in colours with colour bars, and the relative error. 0 and non-finite values: unknown.

        inverse: the prediction is relative inverse depth; least squares align it to the ground truth.
        """

    def error_map(self, wrong: np.ndarray, ignored: np.ndarray) -> None:
        """Adds the image in pale grey, with wrong pixels (H, W) in red and ignored pixels in black."""
