"""Blocks of a prediction: the texts of some batches of images in one file, until all blocks are joined.

A block is predicted completely, also after an interruption: the last digits of predictions depend on the other images
of a batch.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Texts = Mapping[str, str]
"""The texts that an image adds to files of all images, by the file's path in the folder of predictions."""


class Failed(NamedTuple):
    """An image that cannot be read."""

    image_id: int | str
    file_name: str
    reason: str


class Counts(NamedTuple):
    """The number of predicted images of a block, and the unreadable images."""

    images: int = 0
    failed: Sequence[Failed] = ()


def write_block(file: Path, failed: Sequence[Failed], images: Sequence[Texts]) -> None:
    """Writes a block; the file appears when it is complete."""
    partial = file.with_suffix(".partial")
    with gzip.open(partial, "wt", compresslevel=1, encoding="ascii") as block:
        for line in (Counts(len(images), failed), *images):
            block.write(json.dumps(line) + "\n")
    partial.replace(file)


def read_counts(file: Path) -> Counts:
    """The counts of a block; zero before it is written."""
    if not file.is_file():
        return Counts()
    images, failed = next(_lines(file))
    return Counts(images, [Failed(*fields) for fields in failed])


def read_texts(file: Path) -> Iterator[Texts]:
    """Yields the texts of each predicted image of a block."""
    lines = _lines(file)
    next(lines)
    return lines


def _lines(file: Path) -> Iterator[Any]:
    with gzip.open(file, "rt", encoding="ascii") as block:
        yield from map(json.loads, block)
