"""Images with annotations in COCO's format: the official data sets, and custom folders in any common layout."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from densevit import registry
from densevit.channels import RGB, Channels
from densevit.data.datasets.coco_annotations import Annotations
from densevit.data.datasets.coco_layouts import (
    NamedFiles,
    NoAnnotationsError,
    SplitFiles,
    find_files,
    located_split,
    other_splits,
    single_json,
)
from densevit.data.datasets.coco_scan import ScanOptions, scan_files, scanned_files
from densevit.data.datasets.data_root import root_folder
from densevit.data.datasets.dataset_validation import STRICT_SCAN, Scan
from densevit.data.datasets.examination import listed
from densevit.data.datasets.scan_cache import cached_scan, json_value
from densevit.data.io.images import channels_of_files, read_image
from densevit.errors import DataError, PluginError, warn_once
from densevit.interfaces import Dataset, Sample, Targets

_LARGE_JSON = 1 << 20  # bytes; the scan of a smaller one is not cached


class Coco(Dataset):
    """Objects from a COCO json: boxes, and instance masks if `masks` is set.

    root: the data set's folder. Searched in it, for a split called train (val may be spelled valid or validation):
        annotations/instances_train2017.json with train2017/          the official layout, of any year or none
        train.json or annotations/train.json with train/, train/images/, images/train/ or images/
        train/_annotations.coco.json or train/annotations.json with train/ or train/images/
        a single json in COCO's format under any name, such as annotations/instances_default.json or result.json
        Images that are not in these folders are searched for below root, by their `file_name`.
        a folder in YOLO's or Pascal VOC's format, or root is YOLO's data.yaml
    annotations, images: the json and the folder of its images, for every split, instead of the search;
        train_annotations, train_images, val_annotations, val_images are for one split and override these. Relative to
        root. In place of a json also objects.parquet of `densevit predict --format parquet` (see `coco_document`).
    outside_paths: whether a `file_name` may lead out of the folder of the images, by `..` or as an absolute path.
    val_share: the share of the validation images of a data set that has annotations for train, or a single json, and
        none for val; by default 0.2. An error if there is a val split. Identical and nearly identical images stay in
        one part, and the parts depend only on the images' content (see `validation_part`). A json given by
        `annotations` is divided only if val_share is given.
    limit: the number of images to use, the first ones.
    boxes: where the json has the stored size of photos that EXIF rotates by 90 degrees: whether boxes and segmentations
        are on the upright image or on the pixels as they are stored. By default the grid into which all of them fit,
        with a warning; an error if they fit both. Photos of which the json has the upright size are upright; those
        without a size by default too, unless the boxes fit only the stored pixels. Of square images and of those that
        EXIF mirrors or rotates by 180 degrees, the size does not tell: they are read like the others, by default
        upright (see `coco_orientation`).
    crowds: "ignore" does not train on objects with `iscrowd` 1 and does not count them in AP, as COCO's evaluation;
        "objects" treats them as objects. By default they are ignored, with a warning if they are more than 5 % of the
        objects: COCO has 1 %, and CVAT writes `iscrowd` 1 for each mask that is painted with a brush.

    The json and all images are checked at the start (see `read_annotations` and `validate_images`). Samples have the
    boxes of the json, which evaluation uses; in training they are clipped to the image, and those without area are left
    out, with a warning. `area` defaults to width times height. A json without `annotations`, as of test sets, gives
    images without labels.
    """

    def __init__(
        self,
        split: str,
        root: str | None = None,
        annotations: str | None = None,
        images: str | None = None,
        train_annotations: str | None = None,
        train_images: str | None = None,
        val_annotations: str | None = None,
        val_images: str | None = None,
        masks: bool = False,
        outside_paths: bool = False,
        val_share: float | None = None,
        limit: int | None = None,
        boxes: Literal["upright", "stored"] | None = None,
        crowds: Literal["ignore", "objects"] | None = None,
        *,
        scan: Scan = STRICT_SCAN,
        channels: Channels = RGB,
    ) -> None:
        if limit is not None and limit < 1:
            raise DataError(f"data.limit is {limit}; expected at least 1 image.")
        base = None if root is None else root_folder(root, file_allowed=True)
        named = NamedFiles(annotations, images, train_annotations, train_images, val_annotations, val_images)
        files, is_divided = self.find(base, split, named, val_share, outside_paths, scan, channels)
        file, part = files.file, split if is_divided else None
        others = other_splits(base, split, named, file)
        is_searched = split == "train" and annotations is None and train_annotations is None
        options = ScanOptions(masks, limit, outside_paths, part, val_share, boxes, crowds, is_searched, channels)
        key = ["coco", str(file), [str(folder) for folder in files.folders], *map(repr, vars(options).values())]
        is_large, scanned = os.path.getsize(file) > _LARGE_JSON, partial(scanned_files, file, channels)
        arrays = cached_scan(scan, key, lambda: scan_files(scan, files, others, options), scanned, is_large)
        read = self._annotations = Annotations.of_arrays(file, arrays)
        self.folder, self._upright, self._names = json_value(arrays["folder"]), arrays["upright"], arrays["names"]
        self.channels = channels_of_files((self.path(index) for index in range(len(self._names))), channels)
        self.division, self.conversion = json_value(arrays["division"]), files.conversion
        self._usable = read.have_area() & ~read.iscrowd
        notes = json_value(arrays["notes"])
        empty = read.ids[~read.have_area()]
        if len(empty):
            notes.append(
                f"boxes without area inside their image are left out in training: {len(empty):,} of "
                f"{len(read.boxes):,} (annotation {listed(empty)}). In evaluation they count as objects, as in "
                "pycocotools."
            )
        for note in notes if scan.examination is None else ():
            warn_once(f"{file}: {note}")
        self._masks = masks
        self.classes = {"detection": read.classes}
        self._split, self._file = split, file
        self.provides = (("boxes", "labels", "masks") if masks else ("boxes", "labels")) if read.labelled else ()

    def __len__(self) -> int:
        return len(self._annotations)

    def check_labels(self) -> None:
        """Raises DataError if the split has no object that is not a crowd."""
        if not self._annotations.labelled:
            raise DataError(
                f"{self._file} has no `annotations`, as a test set, so that nothing can be learned or measured on the "
                f"split {self._split!r}. Set data.{self._split}_annotations to a file with labels."
            )
        if not self._usable.any():
            raise DataError(
                f"{self._file}: the split {self._split!r} has no object, except crowds, with a box inside its image: "
                "nothing can be learned or measured. Check its `annotations`."
                + (" data.crowds=objects uses crowds as objects." if self._annotations.iscrowd.any() else "")
            )

    def sizes(self) -> np.ndarray:
        """Returns (N, 2) heights and widths of the images as `__getitem__` returns them."""
        return self._annotations.sizes

    def object_counts(self) -> np.ndarray:
        """Returns (N,) objects per image that can be trained on: without crowds, and boxes without area."""
        count = np.concatenate([[0], np.cumsum(self._usable)])
        return np.diff(count[self._annotations.first])

    def image_classes(self) -> np.ndarray:
        """Returns (P, 2) image and class of each object that can be trained on."""
        known = self._annotations
        return np.stack([known.images, known.labels], axis=1)[self._usable]

    def all_objects(self) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """Returns image, clipped box and class of each object that can be trained on, without reading images."""
        known, objects = self._annotations, self._usable
        if not known.labelled:
            return None
        boxes, labels = known.clipped_boxes()[objects], known.labels[objects].astype(np.int64)
        return known.images[objects], {"boxes": boxes, "labels": labels}

    @classmethod
    def find(
        cls,
        root: Path | None,
        split: str,
        named: NamedFiles,
        val_share: float | None,
        outside_paths: bool,
        scan: Scan,
        channels: Channels,
    ) -> tuple[SplitFiles, bool]:
        """Returns the json of a split, and whether it has the images of both train and val, which are then divided.

        A root without a json is read by the data set of another format that recognises it.
        """
        try:
            if root is not None and root.is_file():
                raise NoAnnotationsError(f"data.root: {root} is a file; the data set's folder is expected.")
            return find_files(root, split, named, val_share)
        except NoAnnotationsError:
            reader = None if root is None else other_format(root)
            if reader is None:
                raise
            return reader[1].find(root, split, named, val_share, outside_paths, scan, channels)

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Recognises a folder with a json in one of the layouts, or with a single json in COCO's format."""
        found = any(located_split(root, split) for split in ("train", "val")) or single_json(root)
        return {} if found else None

    def path(self, index: int) -> str:
        """Returns the file of an image."""
        # not a Path, which would stay in memory
        return os.path.join(self.folder, self._names[index].decode())

    def image_name(self, index: int) -> str:
        """Returns the image's `file_name` in the json."""
        return str(self._annotations.file_names[index].decode())

    def __getitem__(self, index: int) -> Sample:
        """Returns the sample; if labelled, with boxes, labels, area, iscrowd and, if requested, masks, of N objects."""
        pixels = read_image(self.path(index), self.channels, bool(self._upright[index]))
        size = (int(self._annotations.sizes[index, 0]), int(self._annotations.sizes[index, 1]))
        if pixels.shape[:2] != size:
            raise DataError(f"{self.path(index)} has changed since the start: {pixels.shape[:2]} pixels, not {size}.")
        image_id = self._annotations.image_ids[index].item()
        targets: Targets = {"image_id": image_id}
        if self._annotations.labelled:
            targets |= self.objects(index)
        if self._annotations.labelled and self._masks:
            assert self._annotations.segmentations is not None
            targets["masks"] = self._annotations.segmentations.masks(self._rows(index), size)
        return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "targets": targets}

    def objects(self, index: int) -> Targets:
        """Returns boxes, labels, area and iscrowd of an image as in the json, without reading its file."""
        known = self._annotations
        rows = self._rows(index)
        return {
            "boxes": torch.from_numpy(known.boxes[rows].copy()),
            "labels": torch.from_numpy(known.labels[rows].astype(np.int64)),
            "area": torch.from_numpy(known.area[rows].copy()),
            "iscrowd": torch.from_numpy(known.iscrowd[rows].copy()),
        }

    def _rows(self, index: int) -> slice:
        """Returns the rows of an image's objects."""
        return slice(int(self._annotations.first[index]), int(self._annotations.first[index + 1]))


def other_format(root: Path) -> tuple[str, type[Coco]] | None:
    """Returns the data set of another format, by its name, that recognises a folder or a file: a subclass of `Coco`
    that writes a json of the folder's annotations."""
    for name in registry.find("datasets"):
        with suppress(PluginError):
            kind = registry.load("datasets", name)
            if kind is not Coco and issubclass(kind, Coco) and kind.recognise(root) is not None:
                return name, kind
    return None
