"""The folder of `densevit predict`: its settings in predict.json, and its parts, each predicted by one process.

A part has blocks: the texts of some batches of images in one file, until all blocks are joined. A block is predicted
completely, also after an interruption: the last digits of predictions depend on the other images of a batch.
"""

import gzip
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from densevit.atomic_io import atomic_file, check_new_folder, locked_folder
from densevit.errors import DataError, DensevitError, WeightsError
from densevit.inference.iterating import BATCHES_AT_ONCE
from densevit.interfaces import Class

SETTINGS = "predict.json"
PARTS = "parts"  # the folder of parts, and the key of their count
_PROCESS = "process.txt"  # in the folder of a part: the process that predicts it
Texts = Mapping[str, str]
"""The texts that an image adds to files of all images, by the file's path in the folder of predictions."""


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the predictions in a folder; without `parts` if all parts are joined and no image failed. Raises
    DensevitError for a folder without predictions."""
    file = folder / SETTINGS
    if not file.is_file():
        raise DensevitError(f"{folder} has no {SETTINGS}, so no predictions of `densevit predict`.")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: expected the settings of a prediction as JSON; found: {error}") from None


def saved_classes(folder: Path, classes: Mapping[str, Sequence[Class]]) -> dict[str, tuple[Class, ...]]:
    """The model's classes by head, with the ids in the files of a folder of predictions."""
    categories = read_settings(folder).get("categories", {})
    return {head: tuple(classes[head]) for head in classes} | {
        head: tuple(replace(c, file_id=row["id"]) for c, row in zip(classes[head], rows, strict=True))
        for head, rows in categories.items()
    }


def write_settings(file: Path, settings: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def check_model(folder: Path, source: str, fingerprint: str | None) -> dict[str, Any]:
    """The settings of the predictions in a folder. Raises DensevitError for a folder without predictions, and for
    predictions of another model.

    source: the model's source, for messages. fingerprint: the model's (`InferenceModel.fingerprint`); None: unknown.
    """
    saved = read_settings(folder)
    if saved.get("weights") != fingerprint:
        raise DensevitError(
            f"{folder} has predictions of another model, {saved.get('model')!r}, with other classes or "
            f"weights than {source!r}. Fix: name that model, or predict with this one into a new folder."
        )
    return saved


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises DensevitError for a folder without predictions, or with predictions of another model or other settings.

    settings: include the model's source as `model` and its fingerprint as `weights`.
    """
    saved = check_model(folder, settings["model"], settings["weights"])
    current = json.loads(json.dumps(settings))
    ignored = ("model",) if PARTS in saved else ("model", PARTS, "batch_size")
    changed = [key for key in {**saved, **current} if key not in ignored and saved.get(key) != current.get(key)]
    if changed:
        listed = "; ".join(f"{key} is {current.get(key)!r}, was {saved.get(key)!r}" for key in changed)
        raise DensevitError(
            f"{folder} was predicted with other settings: {listed}. Fix: use these, or name a new folder."
        )


def resume_hint(folder: Path) -> str:
    """The fix for a folder whose predictions can be continued; "" for other folders."""
    return ", or add --resume to continue in it" if (folder / SETTINGS).is_file() else ""


@dataclass(frozen=True)
class ListPart:
    """One of `count` parts of a list of images: a slice of complete blocks. number: the block's number, from 1.

    predictions: the folder of predictions. images: images in the list. block: images in a block.
    """

    predictions: Path
    number: int
    count: int
    images: int
    block: int

    def __str__(self) -> str:
        return f"{self.predictions}, part {self.number} of {self.count}" if self.count > 1 else str(self.predictions)

    @property
    def folder(self) -> Path:
        return self.predictions / PARTS / f"{self.number:0{len(str(self.count))}}-of-{self.count}"

    @property
    def blocks(self) -> dict[Path, slice]:
        """The file and the images of each block."""
        total = -(-self.images // self.block)
        numbers = range(total * (self.number - 1) // self.count, total * self.number // self.count)
        slices = {n: slice(n * self.block, min((n + 1) * self.block, self.images)) for n in numbers}
        return {self.folder / f"{n:07}.jsonl.gz": images for n, images in slices.items()}

    @property
    def counts(self) -> "Counts":
        """The sum of the blocks' counts."""
        return Counts.summed([read_counts(file) for file in self.blocks])

    def state(self, counts: "Counts") -> str:
        """`complete`, `not begun`, or the process that began the part. counts: `self.counts`."""
        if counts.images + len(counts.failed) == self.total:
            return "complete"
        file = self.folder / _PROCESS
        return file.read_text(encoding="utf-8") if file.is_file() else "not begun"

    @property
    def total(self) -> int:
        """The number of images in the part."""
        return sum(images.stop - images.start for images in self.blocks.values())

    @contextmanager
    def begun(self, resume: bool) -> Iterator[None]:
        """A context in which this process predicts the part: creates its folder with the process's name, unless all
        parts are joined.

        resume: continues a part that was begun; False: raises DensevitError for such a part.
        """
        process = f"process {os.getpid()} on {socket.gethostname()}"
        if PARTS not in read_settings(self.predictions):
            yield
            return
        if self.folder.exists() and not resume:
            raise DensevitError(f"{self} was begun: {self.state(self.counts)}. Fix: add --resume, if it has ended.")
        with locked_folder(self.folder):
            (self.folder / _PROCESS).write_text(process, encoding="utf-8")
            yield


def open_folder(folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Creates a folder of predictions, or checks that its predictions can be continued. Several parts may call this at
    once.

    settings: the settings to save. resume: whether to continue a part. Raises DensevitError for predictions of another
    model or with other settings, and for a folder of other files.
    """
    has_other_files = folder.is_dir() and any(not path.name.startswith("predict") for path in folder.iterdir())
    is_new, alone = not (folder / SETTINGS).is_file(), settings[PARTS] == 1
    if not (alone and resume):
        if alone or (is_new and has_other_files):
            check_new_folder(folder, resume_hint(folder))
        with suppress(WeightsError), atomic_file(folder / SETTINGS) as partial:  # unless another part has written it
            write_settings(partial, settings)
    check_settings(folder, settings)


def parts_of(folder: Path) -> list[ListPart]:
    """The parts of a prediction; none if all are joined and no image failed."""
    settings = read_settings(folder)
    count, images = settings.get(PARTS, 0), int(settings["list"].split()[0])
    block = BATCHES_AT_ONCE * settings["batch_size"]
    return [ListPart(folder, number, count, images, block) for number in range(1, count + 1)]


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
    partial, lines = file.with_suffix(".partial"), "\n".join(map(json.dumps, (counts, *images)))
    partial.write_bytes(gzip.compress(lines.encode("ascii"), 1))
    partial.replace(file)


def read_counts(file: Path) -> Counts:
    """The counts of a block; zero before it is written."""
    counts: Counts = next(read_block(file)) if file.is_file() else Counts()
    return counts


def read_block(file: Path) -> Iterator[Any]:
    """Yields the counts of a block, then the texts of each predicted image."""
    with gzip.open(file, "rt", encoding="ascii") as block:
        images, failed, *objects = json.loads(next(block))
        yield Counts(images, [Failed(*fields) for fields in failed], *objects)
        yield from map(json.loads, block)
