"""Joins the blocks of a prediction into files of all images."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from densevit.atomic_io import replaced_file
from densevit.data.io.map_files import AnnotatedImage, MapFiles
from densevit.errors import DensevitError, listed
from densevit_batch.image_texts import ENTRIES, failed_texts
from densevit_batch.list_writers import CsvTable, JsonList, ParquetTable
from densevit_batch.prediction_blocks import Counts, Texts, read_counts, read_texts
from densevit_batch.prediction_folder import (
    PARTS,
    SETTINGS,
    parts_of,
    read_settings,
    remove_parts,
    write_settings,
)
from densevit_batch.prediction_tables import IMAGES

MAX_IMAGES, MAX_OBJECTS = 1000, 200_000  # rows per part of a table


class AnnotationFile:
    """KEY.json, with entries of the maps of all images; see `SupportsAnnotationFile`."""

    def __init__(self, maps: MapFiles, head: str, key: str) -> None:
        self._maps, self._head, self._key, self._images = maps, head, key, list[AnnotatedImage]()

    def write(self, text: str) -> None:
        self._images.append(AnnotatedImage(*json.loads(text)))

    def close(self) -> None:
        self._maps.write_annotations(self._head, self._key, self._images)


ListWriter = JsonList | CsvTable | ParquetTable | AnnotationFile
"""Writes a file of all images; `write` adds the text of an image, see `image_texts`."""


def join(folder: Path, maps: Callable[[], MapFiles], complete: bool = True) -> Counts:
    """Joins the blocks of all parts in the order of the list. Returns the counts. Removes the parts if no image is left
    and none failed.

    Can be repeated after an interruption. maps: returns the model's map files; called if there is a file of all maps,
    as for panoptic segmentation. complete: raises DensevitError for an incomplete part; False: joins what is written.
    """
    settings, parts = read_settings(folder), parts_of(folder)
    if not parts:
        return Counts(int(settings["list"].split()[0]))
    states = [f"part {part.number} ({part.state(part.counts)})" for part in parts]
    left = [state for state in states if not state.endswith("(complete)")]
    if left and complete:
        raise DensevitError(
            f"{folder}: {len(left)} of {len(parts)} parts {'is' if len(left) == 1 else 'are'} not complete: "
            f"{listed(left)}. Fix: predict these parts, with --resume if they were begun."
        )
    blocks, files = list[Counts](), dict[str, ListWriter]()
    with ExitStack() as replaced:

        def add(texts: Texts) -> None:
            for name, text in texts.items():
                if name not in files:
                    (folder / name).parent.mkdir(exist_ok=True)
                    files[name] = _writer(folder / name, settings, maps, replaced)
                files[name].write(text)

        add({"images.json": ""} if settings["format"] == "json" else {IMAGES: "[]"})
        for file in (file for part in parts for file in part.blocks if file.is_file()):
            blocks.append(read_counts(file))
            failures = (failed_texts(image, settings["format"]) for image in blocks[-1].failed)
            for texts in (*read_texts(file), *failures):
                add(texts)
        for writer in files.values():
            writer.close()
    counts = Counts.summed(blocks)
    if not counts.failed:
        (folder / "failed.csv").unlink(missing_ok=True)
    if not left and not counts.failed:
        settings.pop(PARTS, None)
        with replaced_file(folder / SETTINGS) as partial:
            write_settings(partial, settings)
        remove_parts(folder)
    return counts


def _writer(path: Path, settings: Mapping[str, Any], maps: Callable[[], MapFiles], replaced: ExitStack) -> ListWriter:
    """The writer of a file. replaced: the context that completes files."""
    head = path.parent.name if path.parent.name in settings["threshold"] else next(iter(settings["threshold"]))
    if path.suffix == ENTRIES:
        return AnnotationFile(maps(), head, path.stem)
    if path.name == IMAGES:
        return ParquetTable(path, MAX_IMAGES)
    if path.suffix == ".parquet":
        return ParquetTable(path, MAX_OBJECTS)
    partial = replaced.enter_context(replaced_file(path))
    return JsonList(partial) if path.suffix == ".json" else CsvTable(partial)
