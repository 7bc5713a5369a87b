"""A teacher's predictions of a data set as a COCO json, and as labels of the classes that are not labelled."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou
from tqdm import tqdm

from densevit import DataError, DenseModel, RunLengthMasks
from densevit.errors import ConfigError
from densevit.interfaces import Class, Dataset, Sample, Targets
from densevit.interfaces.datasets import WrappedDataset

SAME = 0.7  # IoU of predictions that are of a labelled object


def write_predictions(teacher: DenseModel, head: str, dataset: Dataset, file: Path) -> None:
    """Writes the objects that a teacher's head predicts in all images of a data set, from its score threshold on, as a
    COCO json with scores."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    images: list[dict[str, Any]] = []
    read = set[int | str]()

    def pixels() -> Iterator[Tensor]:
        for index in tqdm(range(len(dataset)), "Images labelled by the teacher", disable=None):
            with suppress(DataError):  # an unreadable image; `data.on_error` says what a run does
                sample = dataset[index]
                image_id = sample["targets"]["image_id"]
                if image_id not in read:  # a mix may repeat it
                    read.add(image_id)
                    images.append({"id": image_id, "file_name": dataset.image_name(index) or str(image_id)})
                    yield sample["image"]

    classes = teacher.classes[head]
    annotations: list[dict[str, Any]] = []
    for number, result in enumerate(teacher.to(device or "cpu").predict(pixels())):
        image, values = images[number], result.to_dict()
        image |= {side: values[side] for side in ("height", "width")}
        for entry in values["heads"][head]["objects"]:
            x0, y0, x1, y1 = entry["box"]
            annotation = {"id": len(annotations) + 1, "image_id": image["id"], "iscrowd": 0, "score": entry["score"]}
            annotation |= {"category_id": classes[entry["label"]].file_id, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            annotation |= {"area": (x1 - x0) * (y1 - y0)} | ({"segmentation": entry["mask"]} if "mask" in entry else {})
            annotations.append(annotation)
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c.file_id, "name": c.name} for c in classes],
    }
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, file)


class _Objects(NamedTuple):
    """The objects of an image: boxes (N, 4) xyxy, labels (N,) of the data, scores (N,), masks."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: RunLengthMasks | None


class PseudoLabelled(WrappedDataset):
    """A data set in which a teacher's predictions of a file label the classes that are not labelled in an image.

    Predictions of these classes become objects, except at a labelled object, by an IoU of 0.7 or more. The classes are
    then labelled in the image, so that they are negatives elsewhere. `label_weights`: 1 of an object of the data, the
    score of a predicted one.

    file: a file of `write_predictions`. classes: those of the boxes. teacher_classes: the names of the classes that
    predictions label.
    """

    def __init__(self, dataset: Dataset, file: Path, classes: Sequence[Class]) -> None:
        super().__init__(dataset)
        document = json.loads(file.read_text(encoding="utf-8"))
        types = dataset.provides if isinstance(dataset.provides, Mapping) else dict.fromkeys(dataset.provides)
        self.provides = {**types, "label_weights": None}
        self._names = [c.name for c in classes]
        categories = {c["id"]: c["name"] for c in document["categories"]}
        self.teacher_classes = {*categories.values()} & {*self._names}
        labels = {key: self._names.index(name) for key, name in categories.items() if name in self._names}
        by_image: dict[int | str, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            if annotation["category_id"] in labels:
                by_image[annotation["image_id"]].append(annotation)
        sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
        self._objects = {key: _objects(rows, labels, sizes[key]) for key, rows in by_image.items()}

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        targets: Targets = sample["targets"]
        if "boxes" not in targets:
            return sample
        targets = {**targets, "label_weights": torch.ones(len(targets["boxes"]))}
        objects = self._objects.get(targets["image_id"])
        if objects is None or "labelled" not in targets:
            return {**sample, "targets": targets}
        wanted = self.teacher_classes - {*targets["labelled"]}
        is_wanted = torch.tensor([name in wanted for name in self._names])[objects.labels]
        if len(targets["boxes"]):
            is_wanted &= box_iou(objects.boxes, targets["boxes"].float()).amax(1) < SAME
        names = [name for name in self._names if name in targets["labelled"] or name in wanted]
        return {**sample, "targets": {**_with_objects(targets, objects, is_wanted), "labelled": names}}


def _objects(rows: Sequence[dict[str, Any]], labels: dict[int, int], size: tuple[int, int]) -> _Objects:
    boxes = torch.tensor([row["bbox"] for row in rows]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    codes = [row["segmentation"]["counts"].encode() for row in rows if "segmentation" in row]
    return _Objects(
        boxes,
        torch.tensor([labels[row["category_id"]] for row in rows], dtype=torch.int64),
        torch.tensor([row.get("score", 1.0) for row in rows]),
        RunLengthMasks.from_codes(codes, size) if len(codes) == len(rows) else None,
    )


def _with_objects(targets: Targets, objects: _Objects, chosen: Tensor) -> Targets:
    """The targets of an image with the chosen objects, (N,) bool, after its own."""
    boxes = objects.boxes[chosen]
    added = {"boxes": boxes, "labels": objects.labels[chosen], "area": (boxes[:, 2:] - boxes[:, :2]).prod(1)}
    added["label_weights"] = objects.scores[chosen]
    added["iscrowd"] = torch.zeros(len(boxes), dtype=torch.bool)
    result = {**targets, **{key: torch.cat([targets[key], x]) for key, x in added.items() if key in targets}}
    if "masks" in targets:
        if objects.masks is None:
            raise ConfigError("method.teacher predicts no masks. Fix: a teacher that does, or data without masks.")
        result["masks"] = targets["masks"].joined(objects.masks[chosen.numpy()])
    return result
