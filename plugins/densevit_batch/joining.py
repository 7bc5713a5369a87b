"""Joins the blocks of a prediction into files of all images, which do not fit into memory: lists and tables."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
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
Write = Callable[[str], object]
"""Adds the text of an image to a file of all images (`image_texts`)."""


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
    blocks, writers = list[Counts](), dict[str, Write]()
    with ExitStack() as files:

        def add(texts: Texts) -> None:
            for name, text in texts.items():
                if name not in writers:
                    (folder / name).parent.mkdir(exist_ok=True)
                    writers[name] = files.enter_context(_writer(folder / name, settings, maps))
                writers[name](text)

        add({"images.json": ""} if settings["format"] == "json" else {IMAGES: "{}"})
        for file in (file for part in parts for file in part.blocks if file.is_file()):
            counts, *images = read_block(file)
            blocks.append(counts)
            for texts in (*images, *(failed_texts(image, settings["format"]) for image in counts.failed)):
                add(texts)
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


@contextmanager
def json_list(path: Path) -> Iterator[Write]:
    """Writes a JSON list with one entry per line."""
    separator = "[\n"
    with replaced_file(path) as partial, partial.open("w", encoding="utf-8") as file:

        def write(text: str) -> None:
            nonlocal separator
            if text:
                file.write(separator + text)
                separator = ",\n"

        yield write
        file.write("[\n]\n" if separator == "[\n" else "\n]\n")


@contextmanager
def csv_table(path: Path) -> Iterator[Write]:
    """Writes a CSV file. The header of the first text sets the columns; rows of later texts are fitted to these."""
    header = ""
    with replaced_file(path) as partial, partial.open("w", **FORM) as file:

        def write(text: str) -> None:
            nonlocal header
            columns, _, rows = text.partition("\r\n")
            if header and columns != header:
                table = csv.DictWriter(file, next(csv.reader([header])), restval="", extrasaction="ignore")
                table.writerows(csv.DictReader(io.StringIO(text, newline="")))
            else:
                file.write(rows if header else text)
            header = header or columns

        yield write


@contextmanager
def parquet_table(path: Path, least: int) -> Iterator[Write]:
    """Writes a Parquet table: a folder of part files. Texts are columns of rows. least: number of rows of a part file,
    except the last."""
    import pyarrow
    from pyarrow import parquet

    partial, tables = path.with_name(f"{path.name}.partial"), list[Any]()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)

    def write_part() -> None:
        rows = pyarrow.concat_tables(tables or [pyarrow.table({"image_id": []})], promote_options="permissive")
        file = partial / f"{len([*partial.iterdir()]):06}.parquet"
        parquet.write_table(rows.combine_chunks(), file, compression="zstd")
        tables.clear()

    def write(text: str) -> None:
        table = pyarrow.table(json.loads(text))
        if len(table):
            tables.append(table)
        if sum(map(len, tables)) >= least:
            write_part()

    yield write
    if tables or not any(partial.iterdir()):
        write_part()
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


@contextmanager
def annotation_file(maps: MapFiles, head: str, key: str) -> Iterator[Write]:
    """Writes KEY.json, with entries of the maps of all images; see `SupportsAnnotationFile`."""
    images = list[EncodedMap]()
    yield lambda text: images.append(EncodedMap(*json.loads(text)))
    maps.write_annotations(head, key, images)


def _writer(path: Path, settings: Mapping[str, Any], maps: Callable[[], MapFiles]) -> AbstractContextManager[Write]:
    """The writer of a file."""
    head = path.parent.name if path.parent.name in settings["threshold"] else next(iter(settings["threshold"]))
    if path.suffix == ENTRIES:
        return annotation_file(maps(), head, path.stem)
    if path.suffix == ".parquet":
        return parquet_table(path, MAX_IMAGES if path.name == IMAGES else MAX_OBJECTS)
    return json_list(path) if path.suffix == ".json" else csv_table(path)
