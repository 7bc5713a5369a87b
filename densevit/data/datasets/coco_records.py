"""The section `annotations` of a COCO json: `CocoObjects.add` reads one annotation into columns."""

from array import array
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.datasets.coco_json import Images, is_identifier, is_number, unknown_reference
from densevit.data.datasets.coco_segmentations import Packed, packed_segmentation
from densevit.data.datasets.rotated_boxes import bounds_of, rotated_corners, rotation_of
from densevit.errors import DataError, counted
from densevit.registry.plugin_options import shown

MISSING_MASKS = "objects without a mask"
INVALID_SEGMENTATIONS = "invalid segmentations"


def lacks_mask(record: Mapping[str, Any]) -> bool:
    """Whether an annotation has no `segmentation` and is not a rotated box, whose corners are a mask."""
    return not record.get("segmentation") and not ("attributes" in record and rotation_of(record))


def missing_masks(images: Images, records: Sequence[Mapping[str, Any]]) -> DataError | None:
    """The error for annotations without a mask, if there are any."""
    lacking = [record for record in records if lacks_mask(record)]
    if not lacking:
        return None
    row, number = images.rows.get(lacking[0].get("image_id")), shown(lacking[0].get("id"))
    annotation = f"{images.file}: annotation {number}{'' if row is None else f' of image {images.names[row]}'}"
    first = lacking[0].get("source", annotation)
    return DataError(
        f"{len(lacking):,} of {counted(len(records), 'object')} have a box and no polygon or mask, first: {first}. "
        "Fix: data.boxes_as_masks=true takes the box as the mask, data.boxes_as_masks=false leaves these objects out, "
        "in evaluation too; without data.masks boxes suffice.",
        MISSING_MASKS,
    )


class CocoObjects:
    """Columns of M objects. `add` reads one annotation, or raises DataError and leaves it out.

    ids: the file's, or text for an annotation without id. rows, labels: the positions of image and class. boxes: x0,
    y0, x1, y1; for a rotated box, its bounds. rotated: whether a box is rotated (`rotation_of`). segmentations: None
    unless masks were requested. boxes_as_masks: whether boxes are the masks of objects without one; False leaves these
    out.
    """

    def __init__(
        self,
        file: Path,
        images: Images,
        labels: Mapping[Any, int],
        masks: bool,
        boxes_as_masks: bool | None = None,
    ) -> None:
        self.file, self.images, self.label_of, self.boxes_as_masks = file, images, labels, boxes_as_masks
        self.ids: list[Any] = []
        self.rows, self.labels = array("q"), array("i")
        self.boxes, self.area = array("d"), array("d")
        self.iscrowd, self.rotated = bytearray(), bytearray()
        self.segmentations: list[Packed] | None = [] if masks else None
        self._seen: dict[Any, int] = {}  # the image of each id

    def add(self, record: Mapping[str, Any], position: int) -> None:
        """Adds an annotation, unless it is left out for its missing mask. position: the entry's index, for messages."""
        number = record.get("id", f"at position {position}")
        is_box_only = self.segmentations is not None and self.boxes_as_masks is not None and lacks_mask(record)
        if is_box_only and not self.boxes_as_masks:
            return
        area, iscrowd = record.get("area"), record.get("iscrowd", 0)
        try:
            row, label = self.images.rows[record["image_id"]], self.label_of[record["category_id"]]
            x, y, width, height = record["bbox"]
            valid = isfinite(x + y + width + height) and (area is None or 0 <= area < 1e300) and iscrowd in (0, 1)
            if not valid or number in self._seen or not is_identifier(number):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self._fault(record, number) from None
        area = width * height if area is None else area
        box = (x, y, x + max(width, 0), y + max(height, 0))
        is_rotated, segmentation = False, record.get("segmentation")
        if "attributes" in record and (degrees := rotation_of(record)) and width > 0 and height > 0:
            corners = rotated_corners(np.array([[x, y, width, height]], np.float64), np.array([degrees]))  # (1, 4, 2)
            x, y, width, height = bounds_of(corners)[0].tolist()
            box, is_rotated, segmentation = (x, y, x + width, y + height), True, corners.reshape(1, 8).tolist()
        if is_box_only:
            segmentation = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        if self.segmentations is not None:
            try:
                self.segmentations.append(packed_segmentation(segmentation, self.images.sizes[row]))
            except ValueError as error:
                raise self.wrong_segmentation(number, row, str(error)) from None
        self._seen[number] = row
        self.ids.append(number)
        self.rows.append(row)
        self.labels.append(label)
        self.boxes.extend(box)
        self.area.append(area)
        self.iscrowd.append(int(iscrowd))
        self.rotated.append(is_rotated)

    def wrong_segmentation(self, number: Any, row: int, reason: str) -> DataError:
        """Returns the error for an object whose `segmentation` is invalid for this reason."""
        return DataError(
            f"{self.file}: annotation {number} of image {self.images.names[row]}: its `segmentation` {reason}. "
            "Expected polygons of three points or more, or run lengths (RLE) of the image's size. Without `data.masks` "
            "boxes suffice.",
            INVALID_SEGMENTATIONS,
        )

    def _fault(self, record: Mapping[str, Any], number: Any) -> DataError:
        """Returns the error for an invalid annotation: the first rule that it breaks."""
        image, box, area = (record.get(key) for key in ("image_id", "bbox", "area"))
        row = self.images.rows.get(image) if is_identifier(image) else None
        where = f"{self.file}: annotation {shown(number) if 'id' in record else number}"
        if "image_id" in record:
            where += f" of image {shown(image) if row is None else self.images.names[row]}"
        for key in ("image_id", "category_id", "bbox"):
            if key not in record:
                return DataError(f"{where} has no `{key}`.", f"annotations without {key}")
        if not is_identifier(number):
            return DataError(
                f"{where} has the id {shown(number)}; expected a whole number of 64 bits, or text.",
                "annotations with an invalid id",
            )
        if number in self._seen:
            other = self.images.names[self._seen[number]]
            return DataError(
                f"{where} has the id of an earlier one, of image {other}. Expected a different id for each annotation: "
                "pycocotools uses only the last one. Fix: renumber the annotations of this file.",
                "duplicate annotation ids",
            )
        if row is None:
            return DataError(
                f"{where} {unknown_reference('image', record, self.images.rows)}", "annotations of unknown images"
            )
        category = record["category_id"]
        if not is_identifier(category) or category not in self.label_of:
            return DataError(
                f"{where} {unknown_reference('category', record, self.label_of)}", "annotations of unknown categories"
            )
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            return DataError(
                f"{where} has the box {shown(box)}; expected [x, y, width, height], four finite numbers, in pixels.",
                "invalid boxes",
            )
        if area is not None and not (is_number(area) and area >= 0):
            return DataError(
                f"{where} has the area {shown(area)}; expected 0 or more pixels, or no `area`.", "invalid areas"
            )
        return DataError(f"{where} has iscrowd {shown(record['iscrowd'])}; expected 0 or 1.", "invalid iscrowd")
