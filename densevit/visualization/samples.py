"""Visualizations of a few validation images: predictions beside the ground truth."""

from pathlib import Path

from PIL import Image

from densevit.data.build import Data
from densevit.data.image_names import file_name
from densevit.model import DenseModel
from densevit.visualization.draw import draw


def draw_samples(model: DenseModel, data: Data, folder: Path, count: int = 8) -> None:
    """Draws `count` images, evenly spaced over the validation set, as HEAD-IMAGE.jpg in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(min(count, len(data.val))):
        sample = data.val[i * len(data.val) // count if len(data.val) > count else i]
        image, truth = sample["image"], sample["targets"]
        results = model.predict([image.permute(1, 2, 0).numpy()])[0]
        by_head = results if len(model.heads) > 1 else {next(iter(model.heads)): results}
        name = file_name(truth["image_id"]).replace("/", "-")
        for head, predictions in by_head.items():
            drawn = draw(image, predictions, model.classes[head], truth=truth)
            Image.fromarray(drawn).save(folder / f"{head}-{name}.jpg", quality=92)
