"""Class names of all scripts in drawn images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw

from densevit.drawing import fonts
from densevit.drawing.draw import draw
from densevit.errors import warn_once
from densevit.interfaces import Class

GREY = np.full((600, 600, 3), 128, np.uint8)
MISSING = "\uffff"  # no character: fonts show their box for missing glyphs


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """`installed(path, ...)` makes these the only fonts of the system."""

    def clear() -> None:
        for function in (fonts._path_of, fonts._is_drawable, fonts._runs, fonts._system_fonts, warn_once):
            function.cache_clear()

    def install(*paths: Path) -> None:
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [*map(str, paths)])
        clear()

    install()
    yield install
    clear()


def boxes_named(*names: str) -> np.ndarray:
    """An image with a box of each class, all at one place."""
    classes = [Class(name, n, (255, 255, 255)) for n, name in enumerate(names)]
    found = {
        "boxes": torch.full((len(names), 4), 300.0),
        "labels": torch.arange(len(names)),
        "scores": torch.ones(len(names)),
    }
    return draw(GREY, found, classes)


def text_image(text: str) -> bytes:
    image = Image.new("L", (120, 40))
    fonts.draw_text(ImageDraw.Draw(image), 5, 20, text, 20, 255)
    return image.tobytes()


@pytest.mark.parametrize("name", ["Straße", "Собака", "ğışŁ", "σκύλος"])
def test_each_letter_of_latin_greek_and_cyrillic_names_has_a_glyph_of_its_own(installed, name):
    drawn = [text_image(letter) for letter in {*name, MISSING}]
    assert len(set(drawn)) == len(drawn)


def test_a_name_that_no_font_has_is_drawn_as_its_index_with_one_warning(installed):
    with pytest.warns(UserWarning, match=r"show the index of the class: 1 \(車\), 2 \(a 犬\)\. Fix: install") as warned:
        drawn = boxes_named("cat", "車", "a 犬")
        assert np.array_equal(boxes_named("cat", "車", "a 犬"), drawn)
    assert len(warned) == 1
    assert np.array_equal(drawn, boxes_named("cat", "1", "2"))
    semantic = {"semantic": torch.zeros(600, 600, dtype=torch.uint8)}
    legends = [draw(GREY, semantic, [Class(name, 1, (9, 9, 9))]) for name in ("車", "0")]
    assert np.array_equal(*legends)
