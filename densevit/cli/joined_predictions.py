"""Joins the parts of a prediction to the files that one process writes."""

import csv
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from densevit.atomic_io import replaced_file
from densevit.cli.entry_lists import JSON_END
from densevit.cli.map_files import MapFiles
from densevit.cli.prediction_files import SETTINGS, read_settings, write_settings
from densevit.cli.prediction_parts import COMPLETE, DIVISION, PARTS, Part, remove_parts
from densevit.data.io.prediction_tables import IMAGES, part_files
from densevit.errors import DensevitError
from densevit.evaluation.csv_options import FORM, READ_FORM
from densevit.inference import loading


def join(folder: Path, trust: bool = False) -> None:
    """Joins the lists of all parts in their order, without reading them to memory, and removes those of the parts.

    Nothing is lost if it is stopped: it can be called again. trust: the argument of `load` for the model, which is
    loaded if it defines the file of all maps, as for panoptic segmentation. Raises DensevitError if a part is not
    complete.
    """
    settings = read_settings(folder)
    if PARTS in settings:
        parts = [Part(folder, number, settings[PARTS]) for number in range(1, settings[PARTS] + 1)]
        left = [f"{part} ({state.name})" for part in parts if (state := part.state()).name != COMPLETE]
        if left:
            raise DensevitError(
                f"{folder}: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''} of {len(parts)} not complete. Fix: "
                "predict them, with --resume if they were begun."
            )
        folders = [part.folder for part in parts]
        for name in _names(folders, "*.json") | _names(folders, "*.csv"):
            found = [part / name for part in folders if (part / name).is_file()]
            (folder / name).parent.mkdir(exist_ok=True)
            with replaced_file(folder / name) as partial:
                (_join_csv if name.endswith(".csv") else _join_json)(found, partial)
        _join_tables(folders, _names(folders, "*.parquet"), folder)
        listed = (any(path.is_relative_to(part) for part in folders) for path in folder.glob("*/**/*.json"))
        if not all(listed):  # a file of an image's map
            model = loading.load(settings["model"], "cpu", trust)
            MapFiles(folder, model.classes, model.target_types).finish()
        with replaced_file(folder / SETTINGS) as partial:
            write_settings(partial, {key: settings[key] for key in settings if key not in DIVISION})
    remove_parts(folder)


def _names(folders: Sequence[Path], pattern: str) -> set[str]:
    """Returns the paths of lists below the parts; those of heads are in a subfolder."""
    found = {path.relative_to(part).as_posix() for part in folders for path in part.rglob(pattern)}
    return {name for name in found if not name.startswith("owner-") and ".parquet/" not in name}


def _join_json(files: Sequence[Path], out: Path) -> None:
    with out.open("wb") as joined:
        joined.write(b"[")
        for file in files:
            if file.stat().st_size > len("[" + JSON_END):
                joined.write(b"," if joined.tell() > 1 else b"")
                with file.open("rb") as part:
                    part.seek(1)
                    shutil.copyfileobj(part, joined)
                joined.seek(-len(JSON_END), os.SEEK_END)
                joined.truncate()
        joined.write(JSON_END.encode())


def _join_csv(files: Sequence[Path], out: Path) -> None:
    """The columns are those of the first file, as in a prediction by one process."""
    with out.open("w", **FORM) as joined:
        writer, header = csv.writer(joined), list[str]()
        for file in files:
            with file.open(**READ_FORM) as part:
                rows = csv.reader(part)
                columns = next(rows, [])
                if not header:
                    writer.writerow(header := columns)
                if columns == header:
                    writer.writerows(rows)
                else:
                    named = (dict(zip(columns, row, strict=True)) for row in rows)
                    writer.writerows([row.get(column, "") for column in header] for row in named)


def _join_tables(parts: Sequence[Path], names: Collection[str], out: Path) -> None:
    """Numbers the part files of all tables alike; an image's objects are in the file with its row's number."""
    rows = [(part, file.name) for part in parts for file in part_files(part / IMAGES)]
    for number, (part, file_name) in enumerate(rows):
        for source in (part / name / file_name for name in sorted(names, reverse=True)):
            if source.is_file():
                target = out / source.relative_to(part).with_name(f"{number:06}.parquet")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                try:
                    os.link(source, target)
                except OSError:  # no hard links on this disk
                    shutil.copyfile(source, target)
