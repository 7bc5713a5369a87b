"""A model as a callable on batches of images, for data engines such as Ray Data, Spark and Dask."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.datasets.depth_maps import file_types
from densevit.data.io.map_files import as_bytes
from densevit.errors import DataError, DensevitError
from densevit.inference.image_sizes import ImageSize
from densevit.inference.model_loading import device_of, load
from densevit.inference.result import Result
from densevit.model import InferenceModel, Threshold
from densevit.targets.types import TargetTypes, as_array
from densevit_batch.prediction_columns import encoded, image_columns, table_columns

COLUMNS = ("image", "bytes", "path")  # columns of images; the first of them in a batch is used


@dataclass(frozen=True)
class BatchPredictor:
    """Predicts on batches of images for a data engine, as a callable such as Ray Data's `map_batches` takes.

    Imports no engine. Pickled, it contains only these options. Each process loads the model with its first batch, once
    for all predictors with the same model, device, trust and runtime.

    model, device, trust, runtime: the parameters of `load`; the default device is an accelerator if there is one. A
    path must be valid in every process. threshold, batch_size, inference, image_size, focal: the parameters of
    `DenseModel.predict`. column: the column of images; None: the first of `image`, `bytes` and `path`.

    Example:
        >>> predict = densevit.BatchPredictor("runs/detr_swin", device="cpu")
        >>> columns = predict({"path": ["examples/coffee.jpg"]})
        >>> columns["image_height"], columns["image_width"]
        ([480], [720])
    """

    model: str | Path
    device: str = "auto"
    batch_size: int = 8
    threshold: Threshold | None = None
    inference: Mapping[str, Any] | None = None
    image_size: ImageSize | None = None
    column: str | None = None
    trust: bool = False
    runtime: str | None = None
    focal: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | PathLike):
            raise DensevitError(
                f"BatchPredictor: model is a {type(self.model).__name__}; a path is expected, from which each process "
                "loads the model. Fix: densevit.save(model, PATH), then BatchPredictor(PATH)."
            )

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Returns a batch as columns: lists with one value per image.

        batch: columns by name, such as a dict of lists or arrays or a pandas.DataFrame, or a sequence of images: paths,
        URLs, bytes or arrays as in `predict`. Other columns of the batch, and paths, are returned too.
        `image_height`, `image_width`: the size. `error`: why an image cannot be read, whose other values are then
        empty; else "". Per object: arrays with one value each (see `table_columns`), boxes as `x`, `y`, `width`,
        `height` in pixels. Per image: values. Maps: the bytes of the files of `densevit predict`, `semantic.png`,
        `depth.npy`, ... With several heads, names begin with HEAD/.
        Raises DataError for a batch without a column of images.
        """
        names = batch.keys() if hasattr(batch, "keys") else None
        columns = {"image": [*batch]} if names is None else {name: list(batch[name]) for name in names}
        column = self._column_of(columns)
        images = columns.pop(column)
        if all(isinstance(image, str | PathLike) for image in images):
            columns = {column: images} | columns
        model = _loaded(str(self.model), self.device, self.trust, self.runtime)
        options = self.threshold, self.batch_size, self.inference, self.image_size
        predicted = [*model.iterate(images, *options, focal=self.focal)]
        rows = [
            {"error": str(image.error)} if image.result is None else _row(image.result, model) for image in predicted
        ]
        filled: dict[str, Any] = {}
        if rows and all(image.result is None for image in predicted):  # the columns of a readable image
            focal = 1.0 if model.canonical_focals else None
            filled = _row(model.predict(model.blank_images(1, (64, 64))[0], *options, focal), model)
        for row in rows:
            filled = row | filled  # the first row with a name sets its type
        for name, value in filled.items():
            columns[name] = [row[name] if name in row else _empty(value) for row in rows]
        return columns

    def _column_of(self, columns: Mapping[str, Any]) -> str:
        wanted = COLUMNS if self.column is None else (self.column,)
        column = next((name for name in wanted if name in columns), None)
        if column is None:
            raise DataError(
                f"BatchPredictor: the batch has the columns {', '.join(columns)}; expected {' or '.join(wanted)}. Fix: "
                "name the column of the images with BatchPredictor(column=...)."
            )
        return column


@lru_cache(maxsize=4)
def _loaded(model: str, device: str, trust: bool, runtime: str | None) -> Any:
    return load(model, device_of(device), trust, runtime)


def _row(result: Result, model: InferenceModel) -> dict[str, Any]:
    """The values of an image by column."""
    row: dict[str, Any] = {"image_height": result.size[0], "image_width": result.size[1], "error": ""}
    by_head = file_types(model)
    for head, predictions in result.predictions.items():
        classes, types = model.classes[head], TargetTypes(by_head[head])
        values = table_columns(encoded(predictions, classes, types, "object"), classes)
        values |= image_columns(encoded(predictions, classes, types, "image"))
        for key in (key for key in predictions if key in types and types[key].per == "pixel"):
            files = types[key].encode(as_array(predictions[key]), classes) or {}
            values |= {f"{key}{suffix}": as_bytes(content) for suffix, content in files.items()}
        row |= {f"{head}/{name}" if len(result.predictions) > 1 else name: value for name, value in values.items()}
    return row


def _empty(value: Any) -> Any:
    """The value of an image without predictions, of the type of `value`: 0, nan, or nothing."""
    if isinstance(value, np.ndarray):
        return value[:0]
    return float("nan") if isinstance(value, float) else type(value)()
