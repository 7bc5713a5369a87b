"""The blocks of a prediction: what is written of some batches of images, in one file, until all are joined.

A block is predicted as a whole, also after an interruption: predictions depend in their last digits on the other images
of a batch.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Texts = Mapping[str, str]
"""What an image adds to each file of all images, by the path of the file in the folder of predictions."""


class Failed(NamedTuple):
    """An image that cannot be read."""

    image_id: int | str
    file_name: str
    reason: str


class Counts(NamedTuple):
    """The number of predicted images of a block, and the others."""

    images: int = 0
    failed: Sequence[Failed] = ()


def write_block(file: Path, failed: Sequence[Failed], images: Sequence[Texts]) -> None:
    """Writes the texts of images. The file appears when it is complete."""
    partial = file.with_suffix(".partial")
    with gzip.open(partial, "wt", compresslevel=1, encoding="ascii") as block:
        for line in (Counts(len(images), failed), *images):
            block.write(json.dumps(line) + "\n")
    partial.replace(file)


def read_counts(file: Path) -> Counts:
    """Returns the counts of a block; none of a block that is not written yet."""
    if not file.is_file():
        return Counts()
    images, failed = next(_lines(file))
    return Counts(images, [Failed(*one) for one in failed])


def read_texts(file: Path) -> Iterator[Texts]:
    """Yields the texts of each image of a block."""
    lines = _lines(file)
    next(lines)
    return lines


def _lines(file: Path) -> Iterator[Any]:
    with gzip.open(file, "rt", encoding="ascii") as block:
        yield from map(json.loads, block)
