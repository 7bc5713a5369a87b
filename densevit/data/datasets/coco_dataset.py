"""Images with annotations in COCO's format: the official data sets, and custom folders in any common layout."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from densevit.data.datasets.coco_annotations import crowd_note, read_annotations
from densevit.data.datasets.coco_geometry import Grid, annotated_grid, check_masks
from densevit.data.datasets.coco_layouts import (
    NamedFiles,
    NoAnnotationsError,
    SplitFiles,
    Where,
    files_in_layout,
    find_files,
    other_format,
    single_json,
)
from densevit.data.datasets.file_checks import OnError
from densevit.data.datasets.image_files import existing_files
from densevit.data.datasets.measured_images import STORED, MeasuredImages
from densevit.data.datasets.split_folders import check_limit, root_folder
from densevit.errors import DataError, warn_once
from densevit.interfaces import RGB, Channels, Sample, Size, Targets

_MARGIN = 1.0  # pixels; a box that is less far outside fits


class Coco(MeasuredImages):
    """Objects from a COCO json: boxes, and instance masks if `masks` is set.

    root: the data set's folder. Searched in it, for a split called train (val may be spelled valid or validation):
        annotations/instances_train2017.json with train2017/          the official layout, of any year or none
        train.json or annotations/train.json with train/, train/images/, images/train/ or images/
        train/_annotations.coco.json or train/annotations.json with train/ or train/images/
        a single json in COCO's format under any name, such as annotations/instances_default.json or result.json
        Images that are not in these folders are searched for below root, by their `file_name`.
        a folder in YOLO's or Pascal VOC's format, or root is YOLO's data.yaml
    annotations, images: the json and the folder of its images instead of the search, for every split, or by split as in
        {train: a.json, val: b.json}. Relative to root.
    outside_paths: whether a `file_name` may lead out of the folder of the images, by `..` or as an absolute path. The
        file of its base name in this folder is read for other such paths and for URLs, as Label Studio writes them.
    val_share: the share of the validation images of a data set that has annotations for train, or a single json, and
        none for val; by default 0.2. An error if there is a val split. Identical and nearly identical images stay in
        one part, and the parts depend only on the images' content (see `validation_part`).
    limit: the number of images to use, the first ones.
    boxes: whether boxes and segmentations are on the upright image or on the stored pixels, for images that EXIF
        rotates and whose size in the json is not the upright one (see `annotated_grid`).
    crowds: "ignore" does not train on objects with `iscrowd` 1 and does not count them in AP, as COCO's evaluation;
        "objects" treats them as objects. By default ignored, with a warning above 5 %: CVAT writes it for brush masks.
    boxes_as_masks: whether the box is the mask of an object without one; false leaves it out, and None is an error.
    voc_origin: the coordinate of the first pixel in Pascal VOC's files; by default that of the tool that wrote them.

    The constructor checks the json (see `read_annotations`), and `check_files` all images. Samples have the json's
    boxes, as evaluation needs them; training clips boxes to the image and leaves out boxes without area. `area`
    defaults to width times height. A json without `annotations`, such as a test set's, gives images without labels.
    """

    def __init__(
        self,
        split: str,
        root: str | None = None,
        annotations: Where | None = None,
        images: Where | None = None,
        masks: bool = False,
        outside_paths: bool = False,
        val_share: float | None = None,
        limit: int | None = None,
        boxes: Grid | None = None,
        crowds: Literal["ignore", "objects"] | None = None,
        boxes_as_masks: bool | None = None,
        voc_origin: Literal[0, 1] | None = None,
        *,
        on_error: OnError = "raise",
        channels: Channels = RGB,
    ) -> None:
        check_limit(limit)
        base = None if root is None else root_folder(root, file_allowed=True)
        named = NamedFiles(annotations, images)
        files, is_divided = self.find(base, split, named, val_share, outside_paths, on_error, channels, voc_origin)
        self.file, self.conversion = files.file, files.conversion
        read = read_annotations(self.file, masks, boxes_as_masks)
        self.folder = files.image_folder(read.names())
        names, missing = existing_files(self.folder, read.names(), self.file, outside_paths)
        part = split if is_divided else None
        chosen = self.choose(self.folder, names, part, val_share, limit, self.file, channels)
        read, indices = read.subset(chosen), np.flatnonzero(chosen)
        if crowds is None and (note := crowd_note(read.iscrowd)):
            warn_once(f"{self.file}: {note}")
        if crowds == "objects":
            read = replace(read, iscrowd=np.zeros_like(read.iscrowd))
        self.open(self.folder, [names[i] for i in indices.tolist()], channels)
        self.missing = np.flatnonzero(np.isin(indices, missing)).tolist()
        self.json_sizes, self.boxes, self._split = read.sizes, boxes, split
        self.masks, self.boxes_as_masks = masks, boxes_as_masks
        self._grids[:, :2] = self.json_sizes
        self.annotations = replace(read, sizes=self._grids[:, :2])  # a view: `measure` completes the sizes
        self.classes = {"detection": read.classes}
        keys = {"boxes": True, "labels": True, "masks": masks, "labelled": read.labelled_bits.shape[1]}
        self.provides = tuple(key for key, is_read in keys.items() if is_read and read.labelled)

    def scan_key(self) -> list[Any]:
        """Adds the json and the options that the method `grid` reads to the cache key."""
        return [*super().scan_key(), str(self.file), self.boxes, self.masks]

    def other_files(self, index: int) -> list[str]:
        """Returns the json, once."""
        return [str(self.file)] if index == 0 else []

    def check_files(self, on_error: OnError = "raise") -> None:
        """Checks all images. Warns if boxes are read on the stored pixels of photos that EXIF rotates."""
        super().check_files(on_error)
        stored = np.flatnonzero((self._grids[:, 2] == STORED) & (self.json_sizes == self._grids[:, :2]).all(axis=1))
        if self.boxes is None and len(stored):
            warn_once(
                f"{self.file}: EXIF rotates {len(stored):,} of {len(self):,} images by 90 degrees (first: "
                f"{self.path(stored[0])}), and the json has the size of the stored pixels: the boxes are read on these "
                "pixels. Label Studio writes this size for boxes on the upright image: then set data.boxes=upright. "
                "data.boxes=stored confirms this reading; densevit doctor draws both."
            )

    def grid(self, index: int, stored: Size, upright: Size) -> tuple[Size, bool]:
        """Returns the size of the annotated grid, and whether the grid is upright (see `annotated_grid`).

        Raises DataError if the json's size is neither the upright nor the stored size, and, unless `boxes` is set, for
        objects that fit only the other grid.
        """
        json_size = (int(self.json_sizes[index, 0]), int(self.json_sizes[index, 1]))
        if 0 not in json_size and json_size not in (upright, stored):
            height, width = upright
            raise DataError(
                f"{self.path(index)} has {width} x {height} pixels, but {self.file} says {json_size[1]} x "
                f"{json_size[0]}. Boxes would not fit: the image was resized or replaced."
            )
        size, is_upright = annotated_grid(json_size, stored, upright, self.boxes)
        if self.boxes is None and json_size != upright != stored:
            self._check_boxes(index, size, "stored" if is_upright else "upright")
        self._check_segmentations(index, size)
        return size, is_upright

    def _check_boxes(self, index: int, size: Size, other: str) -> None:
        """Raises DataError for a box that fits only the other grid of an image that EXIF rotates."""
        rows = self.annotations.rows(index)
        fits, fits_other = (
            (self.annotations.boxes[rows] <= np.tile(sides, 2) + _MARGIN).all(axis=1) for sides in (size[::-1], size)
        )
        wrong = np.flatnonzero(~fits & fits_other)
        if len(wrong):
            raise DataError(
                f"{self.file}: the box of annotation {self.annotations.ids[rows][wrong[0]]} fits only the {other} "
                f"pixels of {self.path(index)}, which EXIF rotates by 90 degrees. Fix: set data.boxes={other} if the "
                "boxes of all such images are on these."
            )

    def _check_segmentations(self, index: int, size: Size) -> None:
        """Raises DataError for a segmentation whose size is not its image's."""
        if self.annotations.segmentations is None:
            return
        rows = self.annotations.rows(index)
        encoded_sizes = self.annotations.segmentations.sizes[rows]  # (n, 2), 0 for polygons
        wrong = np.flatnonzero((encoded_sizes[:, 0] > 0) & (encoded_sizes != size).any(axis=1))
        if len(wrong):
            height, width = encoded_sizes[wrong[0]].tolist()
            raise DataError(
                f"{self.file}: annotation {self.annotations.ids[rows][wrong[0]]}: its `segmentation` is for an image "
                f"of {width} x {height}, but the image has {size[1]} x {size[0]}. If EXIF rotates it, set data.boxes "
                "to upright or stored."
            )

    def check_labels(self) -> None:
        """Raises DataError if the split has no object that is not a crowd, or most masks are not in their boxes."""
        if not self.annotations.labelled:
            raise DataError(
                f"{self.file} has no `annotations`, as a test set, so that nothing can be learned or measured on the "
                f"split {self._split!r}. Set data.annotations to a file with labels."
            )
        if not self._usable().any():
            raise DataError(
                f"{self.file}: the split {self._split!r} has no object, except crowds, with a box inside its image: "
                "nothing can be learned or measured. Check its `annotations`."
                + (" data.crowds=objects uses crowds as objects." if self.annotations.iscrowd.any() else "")
            )
        check_masks(self.annotations)

    def object_counts(self) -> np.ndarray:
        """Returns (N,) objects per image that can be trained on: without crowds, and boxes without area."""
        return self.annotations.counts(self._usable())

    def image_classes(self) -> np.ndarray:
        """Returns (P, 2) image and class of each object that can be trained on."""
        return self.annotations.image_classes(self._usable())

    def all_objects(self) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """Returns image, clipped box and class of each object that can be trained on, without reading images."""
        annotations, objects = self.annotations, self._usable()
        if not annotations.labelled:
            return None
        boxes, labels = annotations.clipped_boxes()[objects], annotations.labels[objects].astype(np.int64)
        return annotations.images[objects], {"boxes": boxes, "labels": labels}

    @classmethod
    def find(
        cls,
        root: Path | None,
        split: str,
        named: NamedFiles,
        val_share: float | None,
        outside_paths: bool,
        on_error: OnError,
        channels: Channels,
        voc_origin: Literal[0, 1] | None,
    ) -> tuple[SplitFiles, bool]:
        """Returns the files of a split, and whether they hold the images of train and val, which are then divided.

        If root has no json, the data set of another format converts it.
        """
        try:
            if root is not None and root.is_file():
                raise NoAnnotationsError(f"data.root: {root} is a file; the data set's folder is expected.")
            return find_files(root, split, named, val_share)
        except NoAnnotationsError:
            reader = None if root is None else other_format(root, Coco)
            if reader is None:
                raise
            return reader[1].find(root, split, named, val_share, outside_paths, on_error, channels, voc_origin)

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Returns {} if the folder has a json in one of the layouts, or a single json in COCO's format, else None."""
        has_json = any(files_in_layout(root, split) for split in ("train", "val")) or single_json(root)
        return {} if has_json else None

    def image_name(self, index: int) -> str:
        """Returns the image's `file_name` in the json."""
        return str(self.annotations.file_names[index].decode())

    def __getitem__(self, index: int) -> Sample:
        """Returns the sample; if labelled, with boxes, labels, area, iscrowd and, if requested, masks, of N objects."""
        image = self.image(index)
        image_id = self.annotations.image_ids[index].item()
        targets: Targets = {"image_id": image_id}
        if self.annotations.labelled:
            targets |= self.objects(index)
            if "labelled" in self.provides:
                targets["labelled"] = self.annotations.labelled_classes(index)
        if self.annotations.labelled and self.masks:
            assert self.annotations.segmentations is not None
            targets["masks"] = self.annotations.segmentations.masks(self.annotations.rows(index), self.size(index))
        return {"image": image, "targets": targets}

    def objects(self, index: int) -> Targets:
        """Returns boxes, labels, area and iscrowd of an image as in the json, without reading its file."""
        annotations = self.annotations
        rows = self.annotations.rows(index)
        return {
            "boxes": torch.from_numpy(annotations.boxes[rows].copy()),
            "labels": torch.from_numpy(annotations.labels[rows].astype(np.int64)),
            "area": torch.from_numpy(annotations.area[rows].copy()),
            "iscrowd": torch.from_numpy(annotations.iscrowd[rows].copy()),
        }

    def _usable(self) -> np.ndarray:
        """Returns (M,) bool, the objects that can be trained on."""
        return self.annotations.have_area() & ~self.annotations.iscrowd
