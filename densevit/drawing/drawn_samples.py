"""Visualizations of a few validation images: predictions next to the ground truth."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from densevit.data.data_splits import DataSplits
from densevit.data.io.image_names import BEST, WORST, drawing_name, image_name
from densevit.drawing.draw import draw
from densevit.errors import UnreadableFileError
from densevit.interfaces import Class, Predictions, TargetType

Predict = Callable[[int], Mapping[str, Predictions]]
"""Maps the index of a validation image to the predictions of each head."""

Classes = Mapping[str, Sequence[Class]]
Types = Mapping[str, Mapping[str, TargetType] | None]


def draw_samples(
    predict: Predict,
    classes: Classes,
    thresholds: Mapping[str, float],
    data: DataSplits,
    folder: Path,
    types: Types,
    drawings: Mapping[str, str],
    count: int = 8,
) -> None:
    """Draws `count` evenly spaced validation images as HEAD-IMAGE.jpg in a folder.

    classes: the classes of each head. thresholds: minimum scores of drawn objects, by head. types: each head's target
    types with options. drawings: IMAGE by image name (`drawing_names`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(min(count, len(data.val))):
        index = i * len(data.val) // count if len(data.val) > count else i
        for head, (name, drawn) in _drawn(predict, classes, thresholds, data, index, types, drawings).items():
            drawn.save(folder / f"{head}-{name}.jpg", quality=92)


def draw_extremes(
    predict: Predict,
    classes: Classes,
    thresholds: Mapping[str, float],
    data: DataSplits,
    folder: Path,
    indices: Mapping[str, Sequence[int]],
    count: int,
    types: Types,
    drawings: Mapping[str, str],
) -> None:
    """Draws the `count` worst and best images of each head, as worst/HEAD-1-IMAGE.jpg and best/HEAD-1-IMAGE.jpg.

    indices: indices of validation images by head, from the worst to the best image. Other arguments: see
    `draw_samples`.
    """
    for head, order in indices.items():
        worst = list(order[:count])
        best = list(order[::-1][: min(count, len(order) - len(worst))])
        for subfolder, chosen in ((WORST, worst), (BEST, best)):
            for rank, index in enumerate(chosen, start=1):
                drawings_by_head = _drawn(predict, {head: classes[head]}, thresholds, data, index, types, drawings)
                for name, drawn in drawings_by_head.values():
                    (folder / subfolder).mkdir(parents=True, exist_ok=True)
                    drawn.save(folder / subfolder / f"{head}-{rank}-{name}.jpg", quality=92)


def _drawn(
    predict: Predict,
    classes: Classes,
    thresholds: Mapping[str, float],
    data: DataSplits,
    index: int,
    types: Types,
    drawings: Mapping[str, str],
) -> dict[str, tuple[str, Image.Image]]:
    """Draws an image: its name and drawing by head; empty if it cannot be read and `data.on_error` is skip."""
    try:
        sample = data.val[index]
    except UnreadableFileError:
        if data.section.on_error == "raise":
            raise
        return {}
    image, truth = sample["image"], sample["targets"]
    name = image_name(data.val, index, truth["image_id"])
    name = drawings.get(name) or drawing_name(name)
    head_predictions = predict(index)
    drawn = {}
    for head in (head for head in classes if head in head_predictions):
        pixels = draw(
            image,
            head_predictions[head],
            classes[head],
            thresholds[head],
            truth,
            types.get(head),
            channels=data.val.channels,
        )
        drawn[head] = (name, Image.fromarray(pixels))
    return drawn
