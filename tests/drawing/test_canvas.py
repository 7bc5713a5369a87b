"""densevit/drawing/canvas.py: masks, enlarged pixels, and the colours and lengths of labels."""

import numpy as np
import pytest

from densevit.drawing.canvas import as_mask, enlarged, shortened, text_color
from densevit.drawing.fonts import text_width


def test_masks_are_0_and_255_and_pixels_are_enlarged_to_blocks() -> None:
    mask = as_mask(np.array([[True, False]]))
    assert mask.tolist() == [[255, 0]] and mask.dtype == np.uint8
    assert np.asarray(enlarged(mask, 2)).tolist() == [[255, 255, 0, 0]] * 2


@pytest.mark.parametrize(
    ("background", "text"), [((255, 255, 0), 0), ((0, 200, 0), 0), ((0, 0, 128), 255), ((120, 0, 0), 255)]
)
def test_text_is_black_on_light_and_white_on_dark_colours(background: tuple[int, int, int], text: int) -> None:
    assert text_color(background) == (text, text, text)


def test_only_the_name_is_shortened_to_the_width() -> None:
    width = text_width("abcdef…: 0.5", 20)
    found = shortened("abcdefghijkl", ": 0.5", 20, width)
    assert found == "abcdef…: 0.5" and shortened("ab", ": 0.5", 20, width) == "ab: 0.5"
