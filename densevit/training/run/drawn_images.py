"""Visualizations of validation images in the folder of a run or an evaluation."""

from collections.abc import Mapping
from pathlib import Path

from densevit.data.data_splits import DataSplits
from densevit.data.datasets.depth_maps import file_types
from densevit.data.io.image_names import drawing_names, image_names
from densevit.drawing.drawn_samples import draw_extremes, draw_samples
from densevit.evaluation import tables_file
from densevit.inference.iterating import infer
from densevit.interfaces import Head, Predictions
from densevit.model import InferenceModel
from densevit.targets.types import TargetTypes
from densevit.training.loop.model_class_mapping import ClassMapping

EXTREMES = 3  # number of best and worst images


def draw_images(
    model: InferenceModel,
    data: DataSplits,
    folder: Path,
    indices: Mapping[int | str, int],
    mappings: Mapping[str, ClassMapping] | None = None,
) -> None:
    """Draws a sample of the validation images, and the best and worst images in images-HEAD.csv, to predictions/.

    Draws objects above the model's score thresholds; nothing if a head does not implement `predict`. indices: data set
    indices by image id. mappings: the mappings of heads whose classes are not the data's.
    """
    if any(type(head).predict is Head.predict for head in model.heads.values()):
        return
    mappings = mappings or {}
    types = file_types(model)
    classes = model.classes | {head: mapping.classes for head, mapping in mappings.items()}

    def predict(index: int) -> dict[str, Predictions]:
        [predictions] = infer(model, [data.evaluated_sample(index)])
        for head, mapping in mappings.items():
            predictions[head] = mapping.applied(predictions[head], TargetTypes(types.get(head)))
        return predictions

    drawn = folder / "predictions"
    thresholds = model.default_thresholds
    drawings = drawing_names(image_names(data.val, indices).values())
    draw_samples(predict, classes, thresholds, data, drawn, types, drawings)
    by_id = {str(image_id): index for image_id, index in indices.items()}
    orders = {}
    for head in classes:
        path = folder / f"{tables_file.IMAGES}-{head}.csv"
        rows = tables_file.read(path) if path.is_file() else [["image_id"]]
        column = rows[0].index("image_id")
        orders[head] = [by_id[row[column]] for row in rows[1:] if row[column] in by_id]
    draw_extremes(predict, classes, thresholds, data, drawn, orders, EXTREMES, types, drawings)
