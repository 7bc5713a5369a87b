"""Classes of label maps from CVAT's labelmap.txt, or from the values or colours in the files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.io.text_files import read_text
from densevit.errors import DataError
from densevit.interfaces import IGNORE

LABELMAP = "labelmap.txt"


def read_labelmap(file: Path) -> list[dict[str, Any]]:
    """Reads `data.classes` from CVAT's labelmap.txt: lines `name:red,green,blue:parts:actions`, # comments.

    Raises DataError with the first invalid line.
    """
    classes: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, *rest = line.split(":")
        parts = [part.strip() for part in rest[0].split(",")] if rest else []
        if not name.strip() or len(parts) != 3 or not all(part.isdecimal() and int(part) < 256 for part in parts):
            raise DataError(f"{file}, line {number}: {line!r}; expected name:red,green,blue::, each colour 0 to 255.")
        classes.append({"name": name.strip(), "color": [int(part) for part in parts]})
    if not classes:
        raise DataError(f"{file} has no classes; expected lines of name:red,green,blue::.")
    return classes


def suggested_classes(maps: Sequence[np.ndarray]) -> list[tuple[dict[str, Any], float]] | None:
    """Returns an entry of `data.classes` for each value or colour in label maps, with its share of the pixels.

    maps: (H, W) or all (H, W, 3), as `read_label` returns them. 255 is left out, as it is ignored by default, unless
    there is at most one other value, as in binary masks. None for more than 255 entries, for both shapes mixed and
    without maps.
    """
    counts = Counter[int]()
    is_colored = bool(maps) and maps[0].ndim == 3
    for pixels in maps:
        if (pixels.ndim == 3) != is_colored:
            return None
        codes = pixels.astype(np.int64) @ np.array([65536, 256, 1]) if is_colored else pixels
        counts.update(dict(zip(*(part.tolist() for part in np.unique(codes, return_counts=True)), strict=True)))
        if len(counts) > IGNORE + 1:
            return None
    total = sum(counts.values())
    entries = []
    for code, count in sorted(counts.items(), key=lambda item: -item[1] if is_colored else item[0]):
        color = [code >> 16, code >> 8 & 255, code & 255]
        entry = {"name": f"color {' '.join(map(str, color))}", "color": color}
        if is_colored or code != IGNORE or len(counts) <= 2:
            entries.append((entry if is_colored else {"name": f"value {code}", "id": code}, count / total))
    return entries if 0 < len(entries) <= IGNORE else None
