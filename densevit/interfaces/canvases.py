"""The images on which target types draw."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from densevit.interfaces.data_types import Class, Color


class Canvas(Protocol):
    """An image that a `TargetType` draws on. Coordinates are in pixels of the original image."""

    def overlay(self, colors: np.ndarray, mask: np.ndarray) -> None:
        """Blends colours (H, W, 3) uint8 with the image where mask (H, W) is True."""

    def segments(self, ids: np.ndarray, colors: Mapping[int, Color], names: Mapping[int, str]) -> None:
        """Blends the segments of a map of ids (H, W) with the image, with outlines, and names inside.

        Pixels whose id has no colour are left as they are. Segments of one colour have different shades.
        """

    def boxes(self, boxes: np.ndarray, colors: Sequence[Color], texts: Sequence[tuple[str, str]]) -> None:
        """Outlines boxes (N, 4) xyxy, the first on top. texts: (name, suffix); only the name is shortened."""

    def points(self, points: np.ndarray, color: Color) -> None:
        """Draws discs at points (N, 2)."""

    def lines(self, lines: np.ndarray, color: Color) -> None:
        """Draws line segments (N, 2, 2), from point to point."""

    def caption(self, name: str, suffix: str, color: Color) -> None:
        """Writes a label in the upper left corner; only the name is shortened."""


class Drawing(Protocol):
    """Drawing surfaces for a `TargetType`: the image with the predictions, and with the ground truth if given."""

    @property
    def prediction(self) -> Canvas:
        """The image on which predictions are drawn."""

    @property
    def truth(self) -> Canvas | None:
        """The image on which ground truth is drawn; None without ground truth."""

    def legend(self, classes: Sequence[Class]) -> None:
        """Adds the classes to the legend below the image."""

    def panel(self, caption: str, pixels: np.ndarray) -> None:
        """Adds an image (H, W, 3) uint8 beside the others."""

    def value_maps(
        self, prediction: np.ndarray, truth: np.ndarray | None, unit: str = "m", inverse: bool = False
    ) -> None:
        """Adds maps (H, W) in colours with colour bars, and the relative error. 0 and non-finite values are unknown.

        inverse: the prediction is relative inverse depth, which is aligned to the ground truth by least squares.
        """

    def error_map(self, wrong: np.ndarray, ignored: np.ndarray) -> None:
        """Adds the image in pale grey with wrong pixels (H, W) in red and ignored ones in black."""
