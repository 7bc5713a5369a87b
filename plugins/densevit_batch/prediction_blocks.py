"""Blocks of a prediction: the texts of some batches of images in one file, until all blocks are joined.

A block is predicted completely, also after an interruption: the last digits of predictions depend on the other images
of a batch.
"""

import gzip
import json
from collections import Counter
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
    """The number of predicted images of a block, the unreadable images, and the numbers of objects by head: above the
    score threshold, and in total."""

    images: int = 0
    failed: Sequence[Failed] = ()
    listed: Mapping[str, int] = {}
    objects: Mapping[str, int] = {}

    @classmethod
    def summed(cls, counts: Sequence["Counts"]) -> "Counts":
        """The counts of several blocks."""
        return cls(
            sum(block.images for block in counts),
            [image for block in counts for image in block.failed],
            sum((Counter(block.listed) for block in counts), Counter[str]()),
            sum((Counter(block.objects) for block in counts), Counter[str]()),
        )


def write_block(file: Path, counts: Counts, images: Sequence[Texts]) -> None:
    """Writes a block; the file appears when it is complete."""
    partial = file.with_suffix(".partial")
    with gzip.open(partial, "wt", compresslevel=1, encoding="ascii") as block:
        for line in (counts, *images):
            block.write(json.dumps(line) + "\n")
    partial.replace(file)


def read_counts(file: Path) -> Counts:
    """The counts of a block; zero before it is written."""
    if not file.is_file():
        return Counts()
    images, failed, *objects = next(_lines(file))
    return Counts(images, [Failed(*fields) for fields in failed], *objects)


def read_texts(file: Path) -> Iterator[Texts]:
    """Yields the texts of each predicted image of a block."""
    lines = _lines(file)
    next(lines)
    return lines


def _lines(file: Path) -> Iterator[Any]:
    with gzip.open(file, "rt", encoding="ascii") as block:
        yield from map(json.loads, block)
