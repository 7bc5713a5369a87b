"""Joins the blocks of a prediction into files of all images, which do not fit into memory: lists and tables."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from densevit.atomic_io import replaced_file
from densevit.data.io.map_files import EncodedMap, MapFiles
from densevit.errors import DensevitError, listed
from densevit.evaluation.tables_file import FORM
from densevit_batch.image_texts import ENTRIES, failed_texts
from densevit_batch.prediction_folder import (
    PARTS,
    SETTINGS,
    Counts,
    Texts,
    parts_of,
    read_block,
    read_settings,
    write_settings,
)
from densevit_batch.prediction_tables import IMAGES

MAX_IMAGES, MAX_OBJECTS = 1000, 200_000  # rows per part of a table


def join_blocks(folder: Path, maps: Callable[[], MapFiles], complete: bool = True) -> Counts:
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

        add({"images.json": ""} if settings["format"] == "json" else {IMAGES: "{}"})
        for file in (file for part in parts for file in part.blocks if file.is_file()):
            counts, *images = read_block(file)
            blocks.append(counts)
            for texts in (*images, *(failed_texts(image, settings["format"]) for image in counts.failed)):
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
        for part in parts:
            shutil.rmtree(part.folder, ignore_errors=True)  # absent without images
        with suppress(OSError):  # a head's folder may be named "parts"
            (folder / PARTS).rmdir()
    return counts


class JsonList:
    """A JSON list with one entry per line."""

    def __init__(self, path: Path) -> None:
        self._file, self._separator = path.open("w", encoding="utf-8"), "[\n"

    def write(self, text: str) -> None:
        if text:
            self._file.write(self._separator + text)
            self._separator = ",\n"

    def close(self) -> None:
        self._file.write("[\n]\n" if self._separator == "[\n" else "\n]\n")
        self._file.close()


class CsvTable:
    """A CSV file. The header of the first added CSV text sets the columns; rows of later texts are fitted to these
    columns."""

    def __init__(self, path: Path) -> None:
        self._file, self._columns = path.open("w", **FORM), ""

    def write(self, text: str) -> None:
        columns, _, rows = text.partition("\r\n")
        if columns == self._columns or not self._columns:
            self._file.write(rows if self._columns else text)
        else:
            table = csv.DictWriter(self._file, next(csv.reader([self._columns])), restval="", extrasaction="ignore")
            table.writerows(csv.DictReader(io.StringIO(text, newline="")))
        self._columns = self._columns or columns

    def close(self) -> None:
        self._file.close()


class ParquetTable:
    """A Parquet table: a folder of part files. Texts are columns of rows. rows: least number of rows of a part file,
    except the last."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path, self._partial, self._least = path, path.with_name(f"{path.name}.partial"), rows
        self._parts, self._tables = 0, list[Any]()
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)

    def write(self, text: str) -> None:
        import pyarrow

        self._tables.append(pyarrow.table(json.loads(text)))
        if sum(map(len, self._tables)) >= self._least:
            self._write()

    def close(self) -> None:
        if self._tables or not self._parts:
            self._write()
        shutil.rmtree(self._path, ignore_errors=True)
        self._partial.rename(self._path)

    def _write(self) -> None:
        import pyarrow
        from pyarrow import parquet

        tables = [table for table in self._tables if len(table)] or [pyarrow.table({"image_id": []})]
        table = pyarrow.concat_tables(tables, promote_options="permissive").combine_chunks()
        parquet.write_table(table, self._partial / f"{self._parts:06}.parquet", compression="zstd")
        self._parts += 1
        self._tables.clear()


class AnnotationFile:
    """KEY.json, with entries of the maps of all images; see `SupportsAnnotationFile`."""

    def __init__(self, maps: MapFiles, head: str, key: str) -> None:
        self._maps, self._head, self._key, self._images = maps, head, key, list[EncodedMap]()

    def write(self, text: str) -> None:
        self._images.append(EncodedMap(*json.loads(text)))

    def close(self) -> None:
        self._maps.write_annotations(self._head, self._key, self._images)


ListWriter = JsonList | CsvTable | ParquetTable | AnnotationFile
"""Writes a file of all images; `write` adds the text of an image, see `image_texts`."""


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
