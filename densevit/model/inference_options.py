"""Options of inference: windows and test-time augmentation."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Inference:
    """Windows and test-time augmentation of a head. The config's section `inference` describes the options.

    Sides, (height, width), are in pixels of the resized image. The config validates the values, this class does not.
    """

    window: int | tuple[int, int] | None = None
    stride: int | tuple[int, int] | None = None
    average: Literal["logits", "probabilities"] = "logits"
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    batch_size: int = 4

    @property
    def single_pass(self) -> bool:
        """Whether an image is predicted in one forward pass, without windows, flips and scales."""
        return self.window is None and not self.flip and self.scales == (1.0,)

    @property
    def window_sides(self) -> tuple[int, int] | None:
        """(height, width)."""
        return None if self.window is None else _pair(self.window)

    @property
    def strides(self) -> tuple[int, int] | None:
        """(down, across), by default two thirds of the window; None without windows."""
        if self.window is None:
            return None
        if self.stride is not None:
            return _pair(self.stride)
        height, width = _pair(self.window)
        return max(1, round(2 * height / 3)), max(1, round(2 * width / 3))


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides
