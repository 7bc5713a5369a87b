"""Visualizations of a few validation images: predictions beside the ground truth."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from densevit.data.build import Data
from densevit.data.image_names import file_name
from densevit.errors import UnreadableFileError
from densevit.interfaces import Class, Predictions, TargetType
from densevit.visualization.draw import draw


def draw_samples(
    predict: Callable[[Tensor], Mapping[str, Predictions]],
    classes: Mapping[str, Sequence[Class]],
    data: Data,
    folder: Path,
    count: int = 8,
    types: Mapping[str, Mapping[str, TargetType] | None] | None = None,
) -> None:
    """Draws `count` images, evenly spaced over the validation set, as HEAD-IMAGE.jpg in a folder.

    predict: from an image (3, H, W), uint8, to the predictions of each head. classes: those of each head.
    types: of the keys of each head, where they have options.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(min(count, len(data.val))):
        try:
            sample = data.val[i * len(data.val) // count if len(data.val) > count else i]
        except UnreadableFileError:
            if data.section.on_error == "raise":
                raise
            continue
        image, truth = sample["image"], sample["targets"]
        name = file_name(truth["image_id"]).replace("/", "-")
        for head, predictions in predict(image).items():
            drawn = draw(image, predictions, classes[head], truth=truth, types=(types or {}).get(head))
            Image.fromarray(drawn).save(folder / f"{head}-{name}.jpg", quality=92)
