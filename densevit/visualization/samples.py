"""A few validation pictures with what the model says beside the truth."""

from pathlib import Path

from PIL import Image

from densevit.data.build import Data
from densevit.inference.maps import file_name
from densevit.model import DenseModel
from densevit.visualization.draw import draw


def draw_samples(model: DenseModel, data: Data, folder: Path, count: int = 8) -> None:
    """Writes `count` pictures, spread over the validation set, as HEAD-IMAGE.jpg into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(min(count, len(data.val))):
        sample = data.val[i * len(data.val) // count if len(data.val) > count else i]
        image, truth = sample["image"], sample["targets"]
        found = model.predict([image.permute(1, 2, 0).numpy()])[0]
        by_head = found if len(model.heads) > 1 else {next(iter(model.heads)): found}
        for name, predictions in by_head.items():
            drawn = draw(image, predictions, model.classes[name], truth=truth)
            picture = file_name(truth["image_id"]).replace("/", "-")
            Image.fromarray(drawn).save(folder / f"{name}-{picture}.jpg", quality=92)
