"""Images of data sets in the formats of other tools."""

from pathlib import Path

from PIL import Image

from tests.written_files import save_image


def image(path: Path, red: int = 90, size: tuple[int, int] = (64, 48), damaged: bool = False) -> Path:
    """Writes a plain image of `size` (w, h), or the first bytes of it."""
    save_image(path, Image.new("RGB", size, (red, 10, 10)))
    if damaged:
        path.write_bytes(path.read_bytes()[:60])
    return path
