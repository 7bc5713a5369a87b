"""Images and texts of data sets in the formats of other tools."""

from pathlib import Path

from PIL import Image


def image(path: Path, red: int = 90, size: tuple[int, int] = (64, 48), damaged: bool = False) -> Path:
    """Writes a plain image of `size` (w, h), or the first bytes of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 10, 10)).save(path)
    if damaged:
        path.write_bytes(path.read_bytes()[:60])
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path
