"""Data sets of Hugging Face's `datasets`, with an image and objects, a label map or a depth map per row."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from densevit.data.datasets.label_values import Ignored, LabelValues
from densevit.data.datasets.split_folders import spellings
from densevit.data.io.images import read_image
from densevit.errors import DataError
from densevit.interfaces import Dataset, Sample, Targets, as_classes
from densevit.paths import user_path

if TYPE_CHECKING:
    import datasets

_COLUMNS = ("objects", "semantic", "annotation", "label", "labels", "mask", "segmentation_mask", "depth", "depth_map")
_CATEGORIES = ("category", "categories", "category_id", "label", "labels")
_SAVED = ("state.json", "dataset_dict.json")  # files of `save_to_disk`
_MARGIN = 1.0  # pixels; a box that is less far outside fits


class HuggingFaceDataset(Dataset):
    """A data set of `datasets`. Rows have an `image`, and `objects`, a label map or a depth map.

    path: a folder of `save_to_disk`, or another source of `datasets.load_dataset`, such as a folder with parquet files
        or a metadata.jsonl. dataset: a loaded one instead, of this split.
    column: that of the labels; None: objects, or else semantic, annotation, label, mask, depth, ...
    classes: the names; None: those of the objects' ClassLabel, or else their values. Of a label map, its values' names.
    box_format: the meaning of `objects.bbox`, in pixels: x, y, width and height as in COCO, or corners.
    ignore: the values of label maps that are not a class, by default 255. depth_scale: metres per unit of depth.

    Raises DataError for a missing split or column, and for boxes that are not inside of their image.
    """

    def __init__(
        self,
        split: str,
        path: str | None = None,
        dataset: "datasets.Dataset | None" = None,
        column: str | None = None,
        classes: list[str | dict[str, Any]] | None = None,
        box_format: Literal["xywh", "xyxy"] = "xywh",
        ignore: Ignored | None = None,
        depth_scale: float = 1.0,
    ) -> None:
        import datasets

        if (path is None) == (dataset is None):
            raise DataError("data.path is missing: name a saved data set, or, in Python, pass `dataset`.")
        rows: Any = dataset if path is None else _loaded(path, split)
        self._name, self._box_format, self._scale = path or "the data set", box_format, depth_scale
        self._column, self._target = self._labels_of(rows.features, column)
        self.rows = rows.cast_column("image", datasets.Image(decode=False))
        self.provides, self.classes = (self._target,), {}
        if self._target == "objects":
            self.provides = ("boxes", "labels")
            self.classes = {"detection": as_classes(self._read_classes(classes))}
        elif self._target == "semantic":
            if classes is None:
                raise DataError(f"{self._name}: data.classes is missing: the names of the values in {self._column}.")
            self._values = LabelValues(classes, ignore)
            self.classes = {"segmentation": self._values.classes}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """The sample, with boxes, labels, area and iscrowd of N objects, `semantic` or `depth`."""
        row, where = self.rows[index], f"{self._name}, row {index}"
        pixels = read_image(row["image"]["bytes"] or row["image"]["path"], self.channels, name=where)
        targets: Targets = {"image_id": index}
        if self._target == "objects":
            targets |= self._objects(row[self._column], (pixels.shape[0], pixels.shape[1]), where)
        else:
            values = np.asarray(row[self._column])
            if values.shape[:2] != pixels.shape[:2]:
                raise DataError(f"{where}: {self._column} has the shape {values.shape}, its image {pixels.shape}.")
            targets[self._target] = torch.from_numpy(
                self._values.indices(values, where)
                if self._target == "semantic"
                else np.nan_to_num(values.astype(np.float32) * self._scale, posinf=0, neginf=0)
            )
        return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "targets": targets}

    def image_name(self, index: int) -> str | None:
        """The file name of an image, if the data set has it."""
        path = self.rows[index]["image"]["path"]
        return Path(path).name if path else None

    def _labels_of(self, features: Any, column: str | None) -> tuple[str, str]:
        """The column of the labels, and their target. Raises DataError without such a column or an image."""
        is_image_class = {name for name, feature in features.items() if hasattr(feature, "names")}
        name = column or next((name for name in _COLUMNS if name in features and name not in is_image_class), "")
        if name not in features or "image" not in features:
            raise DataError(
                f"{self._name}: the columns are {', '.join(features)}; expected image and "
                f"{column or ', '.join(_COLUMNS)}. Fix: data.column names the labels; "
                "dataset.rename_column renames the image."
            )
        is_objects = "bbox" in _fields(features[name])
        return name, "objects" if is_objects else "depth" if "depth" in name else "semantic"

    def _read_classes(self, classes: Sequence[Any] | None) -> list[str]:
        """The names of the objects' classes. Raises DataError for an object with another class."""
        fields = _fields(self.rows.features[self._column])
        self._category = next((key for key in _CATEGORIES if key in fields), "")
        if not self._category:
            raise DataError(
                f"{self._name}: {self._column} has no {' or '.join(_CATEGORIES)}, only {', '.join(fields)}."
            )
        feature = fields[self._category]
        names = classes or getattr(getattr(feature, "feature", feature), "names", None)
        cells = self.rows.select_columns(self._column)
        values = sorted({value for cell in cells for value in _listed(cell[self._column], self._category)})
        by_name = bool(values) and isinstance(values[0], str)
        names = [str(name) for name in names or (values if by_name else range(max(values, default=-1) + 1))]
        self._indices = {name if by_name else index: index for index, name in enumerate(names)}
        if unnamed := [value for value in values if value not in self._indices]:
            raise DataError(
                f"{self._name}: {self._column}.{self._category} has {unnamed[0]!r}; expected one of "
                f"{len(names)} classes, {', '.join(names)}."
            )
        return names

    def _objects(self, objects: Any, size: tuple[int, int], where: str) -> Targets:
        boxes = np.array(_listed(objects, "bbox"), np.float64).reshape(-1, 4)
        if self._box_format == "xywh":
            boxes[:, 2:] += boxes[:, :2]
        wrong = (boxes[:, 2:] > np.array(size[::-1]) + _MARGIN).any(1) | (boxes[:, :2] < -_MARGIN).any(1)
        wrong |= (boxes[:, 2:] < boxes[:, :2]).any(1)
        if wrong.any():
            other = "xyxy" if self._box_format == "xywh" else "xywh"
            raise DataError(
                f"{where}: a box has the corners {boxes[wrong][0].round(1).tolist()}, in an image of {size[1]} x "
                f"{size[0]}. Fix: data.box_format={other}, or correct it."
            )
        crowds = _listed(objects, "iscrowd") or [False] * len(boxes)
        labels = [self._indices[value] for value in _listed(objects, self._category)]
        return {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "area": torch.from_numpy((boxes[:, 2:] - boxes[:, :2]).prod(1)),
            "iscrowd": torch.tensor(crowds, dtype=torch.bool),
        }


def _loaded(path: str, split: str) -> Any:
    """Reads a split. Raises DataError if there is none."""
    import datasets

    folder = user_path(path)
    try:
        if any((folder / name).is_file() for name in _SAVED):
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder) if folder.exists() else path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{path} cannot be read by datasets.load_dataset: {error}") from None
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    name = next((name for name in spellings(split) if name in splits), None)
    if name is None:
        raise DataError(f"{path} has no split {split!r}, only {', '.join(splits)}. Fix: data.val_split=NAME.")
    return splits[name]


def _fields(feature: Any) -> dict[str, Any]:
    """The features of objects: of a list of mappings, or of a mapping of lists."""
    feature = getattr(feature, "feature", feature)
    feature = feature[0] if isinstance(feature, list) else feature
    return feature if isinstance(feature, dict) else {}


def _listed(objects: Any, key: str) -> list[Any]:
    """The values of all objects, which are a list of mappings or a mapping of lists; [] without the key."""
    if isinstance(objects, dict):
        return list(objects.get(key) or ())
    return [entry[key] for entry in objects or () if key in entry]
