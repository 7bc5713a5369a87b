"""Writes predictions as Parquet: a table of images and, for each head with objects, a table of objects."""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densevit.atomic_io import replaced_file
from densevit.cli.input_images import ImageFile
from densevit.data.io.prediction_tables import FAILED, IMAGES, METADATA, OBJECTS, PREDICTED, part_files, read_images
from densevit.errors import DensevitError, has_surrogates
from densevit.inference.prediction_columns import image_columns, object_columns
from densevit.interfaces import Class, Predictions
from densevit.targets.types import TargetTypes

if TYPE_CHECKING:
    import pyarrow

MAX_IMAGES, MAX_OBJECTS, MAX_SECONDS = 1000, 200_000, 300.0  # of a part


class ParquetFiles:
    """Writes the rows of many images to DIR/images.parquet and FOLDER/objects.parquet, as part files.

    images.parquet: the entries of images.json, state (`predicted` or `failed`) and the predictions per image.
    objects.parquet: image_id and `object_columns`. The rows of MAX_IMAGES images, MAX_OBJECTS objects or MAX_SECONDS
    are a part. That of images is written last: images in it are complete, and a killed process loses one part at most.

    folders: the folder, the classes and the target types of each head. thresholds: the score of each head above which
    objects are annotations when the table is read as such. text_ids: whether ids are text, as they are when one image
    of the list has a text as its id.
    """

    def __init__(
        self,
        folder: Path,
        folders: Mapping[str, tuple[Path, Sequence[Class], TargetTypes]],
        thresholds: Mapping[str, float],
        text_ids: bool = False,
    ) -> None:
        self._images, self._folders, self._thresholds = folder / IMAGES, folders, thresholds
        self._text_ids = text_ids
        self._part, self._begin = 0, time.monotonic()
        self._rows: list[dict[str, Any]] = []
        self._objects: dict[str, list[pyarrow.Table]] = {head: [] for head in folders}

    def file_names(self, images: Sequence[ImageFile]) -> dict[int | str, str]:
        """Returns the file names of the images that are predicted already by id. Raises DensevitError for a name that
        is not valid text. images: the images that the files are of."""
        wrong = next((image.file_name for image in images if has_surrogates(image.file_name)), None)
        if wrong is not None:
            raise DensevitError(
                f"--format parquet: the name {wrong!r} is not UTF-8 text, which Parquet needs. Fix: rename it, or use "
                "--format json."
            )
        ids = {self._id(image.image_id): image.image_id for image in images}
        rows = read_images(self._images) if part_files(self._images) else []
        return {ids.get(row["id"], row["id"]): row["file_name"] for row in rows}

    def begin(self, kept: Collection[int | str]) -> None:
        """Removes the rows of other images than these: of an interrupted part, and of failed images."""
        from pyarrow import compute, parquet

        for file in part_files(self._images):
            rows = parquet.ParquetFile(file).read()
            predicted = rows.filter(compute.equal(rows["state"], PREDICTED))
            if not kept or not len(predicted):
                file.unlink()
            elif len(predicted) < len(rows):
                _write(file, predicted)
        complete = {file.name for file in part_files(self._images)}
        for folder, _, _ in self._folders.values():
            for file in part_files(folder / OBJECTS):
                if file.name not in complete:
                    file.unlink()
        self._part = max((int(Path(name).stem) + 1 for name in complete), default=0)

    def add(self, image: Mapping[str, Any], results: Mapping[str, Predictions]) -> None:
        """Adds the rows of an image. image: its entry in images.json. results: predictions by head."""
        import pyarrow

        row = {**image, "id": self._id(image["id"]), "state": PREDICTED}
        for head, found in results.items():
            _, classes, types = self._folders[head]
            prefix = f"{head}/" if len(self._folders) > 1 else ""
            row |= {prefix + key: value for key, value in image_columns(found, classes, types).items()}
            columns = object_columns(found, classes, types)
            if columns:
                length = len(next(iter(columns.values())))
                ids = np.array([row["id"]] * length, str if self._text_ids else np.int64)
                self._objects[head].append(pyarrow.table({"image_id": ids, **columns}))
        self._rows.append(row)
        objects = sum(len(table) for tables in self._objects.values() for table in tables)
        seconds = time.monotonic() - self._begin
        if len(self._rows) >= MAX_IMAGES or objects >= MAX_OBJECTS or seconds >= MAX_SECONDS:
            self.close()

    def add_failed(self, image_id: int | str, file_name: str) -> None:
        """Adds an image that could not be read."""
        self._rows.append({"id": self._id(image_id), "file_name": file_name, "state": FAILED})

    def close(self) -> None:
        """Writes the collected rows as a part. Further rows begin another one."""
        import pyarrow

        if self._rows:
            name = f"{self._part:06}.parquet"
            for head, tables in self._objects.items():
                folder, classes, _ = self._folders[head]
                if tables:
                    categories = [{"id": c.file_id, "name": c.name} for c in classes]
                    text = json.dumps({"categories": categories, "threshold": self._thresholds[head]})
                    table = pyarrow.concat_tables(tables, promote_options="default")
                    _write(folder / OBJECTS / name, table.replace_schema_metadata({METADATA: text.encode()}))
                tables.clear()
            kinds = {"id": pyarrow.string() if self._text_ids else pyarrow.int64(), "file_name": pyarrow.string()}
            kinds |= {"width": pyarrow.int32(), "height": pyarrow.int32(), "name": pyarrow.string()}
            kinds |= {"state": pyarrow.string()}
            names = [*kinds, *(key for row in self._rows for key in row)]
            columns = {key: [row.get(key) for row in self._rows] for key in dict.fromkeys(names)}
            arrays = {key: pyarrow.array(values, kinds.get(key)) for key, values in columns.items()}
            _write(self._images / name, pyarrow.table(arrays))  # last: images in it are complete
            self._part += 1
            self._rows.clear()
        self._begin = time.monotonic()

    def _id(self, image_id: int | str) -> int | str:
        return str(image_id) if self._text_ids else image_id


def _write(path: Path, table: "pyarrow.Table") -> None:
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        parquet.write_table(table, partial, compression="zstd")
