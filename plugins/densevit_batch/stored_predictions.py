"""Predictions in a folder of `densevit predict`, read image by image, and a model that returns them."""

import json
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, takewhile
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from densevit.data.datasets.mapped_classes import MappedClasses
from densevit.data.io.file_errors import naming_file
from densevit.data.io.label_files import read_label
from densevit.data.io.map_files import MapFiles, SupportsAnnotationFile
from densevit.data.io.text_files import read_json
from densevit.errors import ConfigError, DataError, PluginError, one_line
from densevit.grouping import grouped
from densevit.interfaces import Batch, Dataset, Predictions, Targets, TargetType, Transforms
from densevit.model import InferenceModel
from densevit.targets.image_classes import LISTED
from densevit.targets.run_length_masks import RunLengthMasks
from densevit_batch.prediction_folder import saved_classes
from densevit_batch.prediction_tables import listed_images, object_entries, object_files, read_part

if TYPE_CHECKING:
    from densevit.training.run.evaluation import EvaluationPlan

_JSON = re.compile(r'[{\[]["{\[\]}\d-]')  # the text of a mapping or a list, in place of the name of a class
_EDITED = "Was the file edited? Fix: correct it, or predict again."
_TABLES = 16  # parts of Parquet tables in memory, each with up to 200,000 objects


class StoredPredictions:
    """Reads the predictions of single images from a folder.

    model: the model of the predictions; its target types decode the files. images: the entries of images.json, or the
    rows of images.parquet. The images and the byte positions of their objects are in memory.
    """

    def __init__(self, folder: Path, model: InferenceModel) -> None:
        classes = saved_classes(folder, model.classes)
        self.folder, self._maps = folder, MapFiles(folder, classes, model.target_types)
        self._table = lru_cache(_TABLES)(read_part)
        self.images, ids = (images := listed_images(folder)), {image["id"] for image in images}
        self._places: dict[str, dict[int | str, tuple[Path, int, int]]] = {}
        for head in model.classes:
            for file in object_files(folder, head):
                places = {image_id: (file, first, length) for image_id, first, length in _places(file)}
                if unknown := [*places.keys() - ids]:
                    raise DataError(f"{file}: no image of {folder} has the id {unknown[0]!r}. {_EDITED}")
                self._places.setdefault(head, {}).update(places)

    def read(self, image: Mapping[str, Any]) -> dict[str, Predictions]:
        """The predictions of an image by head, as the model returned them. Without objects, values per object are
        empty."""
        return {head: self._read_head(head, image) for head in self._maps.classes}

    def heads_with(self, key: str) -> set[str]:
        """The heads with this key in any entry of an object or image."""
        return {
            head
            for head in self._maps.classes
            if any(
                key in entry
                for image in self.images
                for entry in (self._columns(head, image), *self._entries(head, image))
            )
        }

    def missing(self, name: str, which: str) -> DataError:
        """An error for images without a prediction. name: the first image. which: their number, in words."""
        return DataError(
            f"{self.folder} has no prediction for {which}; the first is {name}. Fix: predict these images too "
            "(failed.csv has the reasons), or evaluate on data without them."
        )

    def _read_head(self, head: str, image: Mapping[str, Any]) -> Predictions:
        types, classes, folder = self._maps.types[head], self._maps.classes[head], self._maps.folder_of(head)
        entries = self._entries(head, image)
        values = entries.pop() if entries and _is_per_image(entries[-1], types) else self._columns(head, image)
        encoded: dict[str, Any] = {key: value for key, value in values.items() if key in types}
        for key in (path.name for path in folder.glob("*") if path.name in types and types[path.name].per == "pixel"):
            encoded[key] = _encoded_map(folder / key / image["name"], isinstance(types[key], SupportsAnnotationFile))
        decoded = {key: types[key].decode(value, classes) for key, value in encoded.items()}
        for key in types if head in self._places else ():
            try:
                if types[key].per == "object":
                    decoded[key] = types[key].decode(entries, classes)
            except (NotImplementedError, PluginError):
                continue
            except (LookupError, TypeError, ValueError) as error:
                if isinstance(error, KeyError) and not any(error.args[0] in entry for entry in entries):
                    continue  # a key that this head does not predict
                text = f"an object has no {error}." if isinstance(error, KeyError) else one_line(error)
                file = self._places[head][image["id"]][0]
                raise DataError(f"{file}: image {image['id']!r}: {key}: {text} {_EDITED}") from None
        return {key: _as_predicted(value, (image["height"], image["width"])) for key, value in decoded.items()}

    def _entries(self, head: str, image: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The entries of an image's objects; the last one may hold predictions per image."""
        if image["id"] not in self._places.get(head, {}):
            return []
        path, first, length = self._places[head][image["id"]]
        if path.suffix == ".parquet":
            from pyarrow import compute

            table = self._table(path)
            return object_entries(table.filter(compute.equal(table["image_id"], image["id"])), [image])
        with path.open("rb") as file:
            file.seek(first)
            return list(json.loads(b"[" + file.read(length).rstrip(b",\r\n") + b"]"))

    def _columns(self, head: str, image: Mapping[str, Any]) -> dict[str, Any]:
        """Predictions per image in a row of images.parquet; see `image_columns`."""
        prefix = f"{head}/" if len(self._maps.classes) > 1 else ""
        columns = {name.removeprefix(prefix): value for name, value in image.items() if name.startswith(prefix)}
        return {key: json.loads(x) if _JSON.match(str(x)) else x for key, x in columns.items() if x is not None}


class StoredModel(InferenceModel):
    """Returns the predictions of a folder instead of computing them. model: the model of the predictions."""

    def __init__(self, model: InferenceModel, stored: StoredPredictions) -> None:
        for name in InferenceModel.__annotations__:
            setattr(self, name, getattr(model, name))
        self.stored = stored

    def use(self, plan: "EvaluationPlan") -> None:
        """Finds the prediction of each evaluated image by path (see `match_files`), or by id if no path matches. Raises
        DataError for images without a prediction, and ConfigError for metrics that need further predictions."""
        names, stored = _paths(plan.data.val), self.stored
        rows = match_files(names, [image["file_name"] for image in stored.images])
        missing = np.flatnonzero(rows < 0)
        if 0 < len(missing) < len(names):
            raise stored.missing(names[missing[0]], f"{len(missing):,} of the {len(names):,} images of the data")
        by_id = {str(image["id"]): image for image in stored.images if len(missing)}
        self.image_of = by_id | {index: stored.images[row] for index, row in enumerate(rows.tolist()) if row >= 0}
        for head in self.heads:
            if plan.model.sections.heads[head].evaluation is None:
                raise ConfigError(
                    f"heads.{head}.evaluation is null, and predictions have no loss. Fix: name an evaluator "
                    f"(heads.{head}.evaluation.name)."
                )
        for head in plan.mappings.keys() & stored.heads_with("class_scores"):
            if len(plan.mappings[head].classes) < len(self.classes[head]) > LISTED:
                raise ConfigError(
                    f"{stored.folder} has the {LISTED} highest scores of an image only, which do not suffice for "
                    f"{len(plan.mappings[head].classes)} of the {len(self.classes[head])} classes. Fix: densevit "
                    "evaluate MODEL."
                )

    @torch.no_grad()
    def infer(
        self,
        batch: Batch,
        references: Mapping[str, Transforms] | None = None,
    ) -> dict[str, list[Predictions]]:
        """The stored predictions of a batch, like `DenseModel.infer`; empty for repeated images."""
        predictions = [self._stored(target) if "dataset_index" in target else {} for target in batch["targets"]]
        return {name: [by_head.get(name, {}) for by_head in predictions] for name in self.heads}

    def _stored(self, target: Targets) -> dict[str, Predictions]:
        image_id, size = str(target["image_id"]), tuple(map(int, target["original_size"]))
        image = self.image_of.get(target["dataset_index"], self.image_of.get(image_id))
        if image is None:
            raise self.stored.missing(image_id, "images of the data")
        if (image["height"], image["width"]) != size:
            raise DataError(
                f"{self.stored.folder}: {image['file_name']} was predicted with {image['width']} x {image['height']} "
                f"pixels; image {image_id} of the data has {size[1]} x {size[0]}. Fix: predict the images of the data."
            )
        return self.stored.read(image)


def match_files(names: Sequence[str], files: Sequence[str]) -> np.ndarray:
    """Matches paths by file name: for each of `names`, the index in `files`, (N,); -1 without a match.

    Of several files of a name, the one with the most equal parent folders matches; none on a tie. A file with several
    names matches the names with the most equal parent folders.
    """
    by_name = grouped((os.path.basename(file), row) for row, file in enumerate(files))
    rows, depths, most = np.full(len(names), -1), np.zeros(len(names), int), np.zeros(len(files) + 1, int)
    for index, name in enumerate(names):
        equal = {row: _equal_parts(name, files[row]) for row in by_name.get(os.path.basename(name), ())}
        deepest = [row for row, depth in equal.items() if depth == max(equal.values())]
        if len(deepest) == 1:
            rows[index], depths[index] = deepest[0], equal[deepest[0]]
    np.maximum.at(most, rows, depths)
    rows[depths < most[rows]] = -1
    return rows


def _equal_parts(first: str, second: str) -> int:
    """The number of equal parts of two paths, from their ends."""
    equal = map(operator.eq, PurePath(first).parts[::-1], PurePath(second).parts[::-1])
    return sum(takewhile(bool, equal))


def _paths(dataset: Dataset) -> list[str]:
    """The paths of a data set's images, else their names, else ""."""
    while isinstance(dataset, MappedClasses):
        dataset = dataset.dataset
    name_of: Callable[[int], str | None] = getattr(dataset, "path", dataset.image_name)
    return [name_of(index) or "" for index in range(len(dataset))]


def _places(file: Path) -> Iterator[tuple[int | str, int, int]]:
    """Yields the id of each image in a list of objects, with the first byte and the length of its successive entries in
    predictions.json (0 and 0 for Parquet)."""
    if file.suffix == ".parquet":
        yield from ((image_id, 0, 0) for image_id in read_part(file)["image_id"].unique().to_pylist())
        return
    first, seen = 0, set()
    with file.open("rb") as lines:
        for start, entries in groupby(lines, lambda line: line.partition(b', "')[0]):  # \" in strings
            length, begins = sum(map(len, entries)), start.startswith(b'{"image_id": ')
            if start in seen or not (begins or start.strip() in (b"", b"[", b"]", b"[]")):
                raise DataError(
                    f"{file} has changed since the prediction: expected a line per object, and the objects of an image "
                    f"in successive lines; found {start[:60]!r}. {_EDITED}"
                )
            if begins:
                seen.add(start)
                yield json.loads(start + b"}")["image_id"], first, length
            first += length


def _encoded_map(path: Path, joins: bool) -> dict[str, Any]:
    """Reads the files of a map by suffix, the result of `TargetType.encode`. path: the files' common path, without
    suffix. joins: whether ".json" is joined in one file for all images, which `TargetType.decode` does not need."""
    encoded = {}
    readers: dict[str, Callable[[Path], Any]] = {".png": read_label, ".npy": np.load}
    for suffix, read in (readers if joins else readers | {".json": read_json}).items():
        if (file := path.with_name(path.name + suffix)).is_file():
            with naming_file(file, "map"):
                encoded[suffix] = read(file)
    if not encoded:
        raise DataError(f"{path}.*: there is no such file, the map of a predicted image.")
    return encoded


def _is_per_image(entry: Mapping[str, Any], types: Mapping[str, TargetType]) -> bool:
    """Whether an entry holds predictions per image instead of an object."""
    return all(key in types and types[key].per == "image" for key in entry if key != "image_id")


def _as_predicted(value: Any, size: tuple[int, int]) -> Any:
    """Converts a decoded value to a model's output: tensors, floating-point numbers in float32."""
    if isinstance(value, RunLengthMasks):
        return (value if len(value) else RunLengthMasks.from_codes([], size)).to("cpu")
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(np.array(value))
    return tensor.float() if tensor.is_floating_point() else tensor
