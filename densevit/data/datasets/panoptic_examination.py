"""Reports all problems in a COCO panoptic json, for `densevit doctor`."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from densevit.data.datasets.coco_json import parse_json, section_of
from densevit.data.datasets.examination import Examination
from densevit.data.datasets.panoptic_annotations import (
    PanopticAnnotations,
    panoptic_annotations_of,
    panoptic_classes_of,
)
from densevit.errors import DataError


def read_examined(file: Path, examination: Examination) -> PanopticAnnotations:
    """Returns the annotations of a json without images that have errors, which are reported.

    Raises DataError for invalid categories, and if nothing can be read from the json.
    """
    document = parse_json(file, keep_segmentations=True)
    try:
        return panoptic_annotations_of(file, document)
    except DataError:
        panoptic_classes_of(file, document)  # raises an error that every image would have
    images, annotations = (section_of(file, document, name) for name in ("images", "annotations"))
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for record in annotations:
        of_image[str(record.get("image_id"))].append(record)
    good: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    wrong, known = [], set()
    for image in images:
        name = str(image.get("id"))
        own = {"images": [image], "annotations": of_image.get(name, [])}
        try:
            if name in known:
                raise DataError(f"{file}: the image id {name} occurs twice; ids must differ.")
            panoptic_annotations_of(file, document | own)
        except DataError as error:
            wrong.append(str(error))
            continue
        known.add(name)
        for section, records in own.items():
            good[section] += records
    there = {str(image.get("id")) for image in images}
    unknown = [f"{file.name}: the annotation of image {name}" for name in of_image if name not in there]
    examination.report("error", "invalid entries", wrong, "Each message names its fix.", of=len(images))
    examination.report("error", "annotations of unknown images", unknown, "Remove them, or add the images.")
    return panoptic_annotations_of(file, document | good)
