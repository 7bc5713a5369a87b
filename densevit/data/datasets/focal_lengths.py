"""The focal lengths of a data set's images: from its list file, files beside the images, or one for all images."""

import csv
import functools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.datasets.paired_files import PairedFiles
from densevit.data.io.text_files import read_json, read_text
from densevit.errors import DataError

_FILES = ("focal.json", "focal.csv")
_FORMS = (
    'expected {"NAME": PIXELS, ...} in focal.json, or a line "NAME,PIXELS" for each image in focal.csv, below a line '
    '"image,focal" or without it'
)


def focal_lengths(root: Path, pairs: PairedFiles, constant: float | None) -> np.ndarray:
    """The focal length in pixels of each image, (N,): of the list file, or else of focal.json or focal.csv in the
    image's folder, or else `constant`; nan where it is unknown.

    Raises DataError for values that are no numbers, and if only some images have one.
    """
    focals, in_folder = pairs.focals.copy(), functools.cache(_in_folder)
    for index in np.flatnonzero(np.isnan(focals)):
        folder, name = os.path.split(os.fsdecode(pairs.images[index]))
        focals[index] = in_folder(root / folder).get(name, math.nan)
    focals[np.isnan(focals)] = math.nan if constant is None else constant
    unknown = np.isnan(focals)
    if 0 < unknown.sum() < len(focals):
        image = root / os.fsdecode(pairs.images[unknown.argmax()])
        raise DataError(
            f"{image} has no focal length, and {(~unknown).sum():,} of {len(focals):,} images have one in the list or "
            "in a file beside the images. Fix: add it there, or set data.focal=PIXELS for the others."
        )
    return focals


def _in_folder(folder: Path) -> dict[str, float]:
    """The focal lengths in the files of a folder, by image name; {} without these files."""
    focals: dict[str, float] = {}
    for path in (path for path in (folder / file for file in _FILES) if path.is_file()):
        content: Any = read_json(path) if path.suffix == ".json" else csv.reader(read_text(path).splitlines())
        try:
            rows = content.items() if path.suffix == ".json" else filter(None, content)
            focals |= {name: float(value) for name, value in rows if value != "focal"}
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: {error}; {_FORMS}.") from None
    return focals
