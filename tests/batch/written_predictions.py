"""A folder of given predictions, as `densevit predict` writes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from densevit.inference.result import Result
from densevit.interfaces import RGB, Class, Predictions
from densevit_batch.image_file import ImageFile
from densevit_batch.image_texts import image_texts
from densevit_batch.image_writers import OutputFolder
from densevit_batch.joining import join_blocks
from densevit_batch.prediction_folder import Counts, open_folder, parts_of, write_block


def write_predictions(
    folder: Path,
    classes: Mapping[str, Sequence[Class]],
    images: Sequence[tuple[ImageFile, tuple[int, int], Mapping[str, Predictions]]],
    format: str = "json",
) -> None:
    """images: with their sizes and predictions by head, in blocks of four."""
    thresholds = dict.fromkeys(classes, 0.5)
    predictor: Any = SimpleNamespace(classes=classes, target_types={}, channels=RGB)
    output = OutputFolder(folder, predictor, thresholds)
    names = {head: [{"id": c.file_id, "name": c.name} for c in own] for head, own in classes.items()}
    settings = {"model": "run", "weights": None, "list": f"{len(images)} images", "threshold": thresholds}
    open_folder(folder, {**settings, "format": format, "categories": names, "batch_size": 1, "parts": 1}, False)
    [part] = parts_of(folder)
    part.folder.mkdir(parents=True)
    for file, place in part.blocks.items():
        texts = []
        for image, size, predictions in images[place]:
            result = Result(np.zeros((*size, 3), np.uint8), size, predictions, classes)
            texts.append(image_texts(image, result, output, format))
        write_block(file, Counts(len(texts)), texts)
    join_blocks(folder, lambda: output.maps)
