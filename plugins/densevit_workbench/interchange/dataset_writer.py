"""Writes a data set to disk in common formats: COCO json, semantic PNG, 16-bit depth PNG."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from densevit.atomic_io import check_writable, is_empty
from densevit.errors import DataError
from densevit.interfaces import Class, Dataset, Targets
from densevit.targets.object_targets import InstanceMasks, xywh


def empty_folder(folder: Path) -> Path:
    """Creates an empty folder for a data set. Raises DataError if the path exists and is not an empty folder."""
    if folder.exists() and not is_empty(folder):
        raise DataError(f"{folder} exists and is not an empty folder. Name another one, or remove it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be created: {error.strerror}.") from error
    check_writable(folder)
    return folder


def write_split(dataset: Dataset, folder: Path, split: str, suffix: str = ".png") -> Iterator[int]:
    """Writes one split. Yields the index of each image after it is written.

    folder/SPLIT/images/000001.png: the images; with `suffix` ".jpg", lossy.
    folder/annotations/SPLIT.json: COCO; category ids are the classes' file ids, masks are run-length encoded.
    folder/SPLIT/semantic/000001.png: 8 bits, the index of a class in folder/classes.json, 255 = ignore.
    folder/SPLIT/depth/000001.png: 16 bits, millimetres, 0 = unknown.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for folder_name in ("images", *(key for key in ("semantic", "depth") if key in dataset.provides)):
        (folder / split / folder_name).mkdir(parents=True, exist_ok=True)
    for index in range(len(dataset)):
        sample = dataset[index]
        image, targets = sample["image"].numpy(), sample["targets"]
        name = f"{index + 1:06}"
        _write(folder / split / "images" / (name + suffix), cv2.cvtColor(image.transpose(1, 2, 0), cv2.COLOR_RGB2BGR))
        if "semantic" in targets:
            _write(folder / split / "semantic" / f"{name}.png", targets["semantic"].numpy())
        if "depth" in targets:
            _write(folder / split / "depth" / f"{name}.png", millimetres(targets["depth"].numpy()))
        _, height, width = image.shape
        images.append({"id": index + 1, "file_name": name + suffix, "height": height, "width": width})
        numbered = enumerate(_annotations(targets, dataset.classes["detection"]), len(annotations) + 1)
        annotations += [{"id": number, "image_id": index + 1} | annotation for number, annotation in numbered]
        yield index
    categories = [_category(category, category.file_id) for category in dataset.classes["detection"]]
    _write_json(
        folder / "annotations" / f"{split}.json",
        {"images": images, "annotations": annotations, "categories": categories},
    )
    _write_json(
        folder / "classes.json", [_category(category, i) for i, category in enumerate(dataset.classes["segmentation"])]
    )


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Converts metres to 16-bit millimetres; values out of range become 0, unknown."""
    rounded = np.rint(depth * 1000.0)
    return np.where(rounded < 2**16, rounded, 0).astype(np.uint16)


def _annotations(targets: Targets, classes: tuple[Class, ...]) -> Iterator[dict[str, Any]]:
    boxes = xywh(targets["boxes"].numpy()).tolist()
    codes = InstanceMasks().encode(targets["masks"], classes)["segmentation"] if "masks" in targets else []
    for number, label in enumerate(targets["labels"].tolist()):
        annotation = {
            "category_id": classes[label].file_id,
            "bbox": boxes[number],
            "area": targets["area"][number].item(),
            "iscrowd": int(targets["iscrowd"][number]),
        }
        yield annotation | ({"segmentation": codes[number]} if codes else {})


def _category(category: Class, number: int) -> dict[str, Any]:
    return {"id": number, "name": category.name, "color": list(category.color), "isthing": int(category.thing)}


def _write(path: Path, pixels: np.ndarray) -> None:
    if not cv2.imwrite(str(path), pixels):
        raise DataError(f"{path} cannot be written. Is the disk full, or the folder read-only?")


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")))
