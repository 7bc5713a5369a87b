"""Images with segments in COCO's panoptic format: a json, and PNGs with segment ids as colours."""

import glob
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from densevit.channels import RGB, Channels
from densevit.data.datasets.data_root import root_folder
from densevit.data.datasets.dataset_validation import STRICT_SCAN, Scan
from densevit.data.datasets.image_files import IMAGES
from densevit.data.datasets.paired_dataset import load_preset
from densevit.data.datasets.paired_files import list_files
from densevit.data.datasets.panoptic_annotations import PanopticAnnotations, panoptic_ids, read_panoptic_annotations
from densevit.data.datasets.scan_cache import LARGE, Arrays, cached_scan
from densevit.data.datasets.splits import check_split, spellings
from densevit.data.io.channel_files import channel_paths
from densevit.data.io.images import channels_of_files, image_header, read_image
from densevit.data.io.label_files import label_size_of
from densevit.data.io.panoptic_files import Runs, read_segment_ids
from densevit.data.outside_paths import check_file_names
from densevit.errors import DataError
from densevit.interfaces import IGNORE, VOID, Dataset, Sample, Targets
from densevit.targets.run_length_masks import RunLengthMasks

Preset = Literal["ade20k", "cityscapes"]

PRESETS = Path(__file__).parent / "presets" / "panoptic"
_COCO = {
    "annotations": "annotations/panoptic_{split}2017.json",
    "segments": "annotations/panoptic_{split}2017",
    "images": "{split}2017",
    "empty_segments": False,
}
_LISTED = 5  # segments in a message


class CocoPanoptic(Dataset):
    """Things and stuff from a COCO panoptic json and its PNGs: `panoptic` (H, W), and boxes of things.

    root: the data set's folder; the paths below are relative to it, and {split} in them becomes the split's name, also
        as training, valid or validation.
    preset: the options of a known data set, in presets/panoptic/PRESET.yaml beside this file. Other options override
        them; by default those of COCO's official layout.
    annotations: the json. segments: the folder of its PNGs, in which a pixel's segment is R + 256 G + 65536 B, and 0 is
        void. images: the folder of its images, or a pattern such as "leftImg8bit/{split}/*/*_leftImg8bit.png", in which
        the last star matches an image's id.
    masks: whether to return instance masks of things. semantic: whether to return the label map, with the classes of
        `panoptic`; void is ignored.
    empty_segments: whether segments of the json may have no pixel in their PNG; these are left out.
    outside_paths: whether a `file_name` may lead out of its folder, by `..` or as an absolute path.
    limit: the number of images to use, the first ones.

    `panoptic_crowds` are the panoptic ids of an image's crowds. Boxes and area are measured in the PNGs. All files are
    checked at the start: that images and PNGs are complete and have the same size, and that the json and each PNG have
    the same segments. An image is not rotated by EXIF if only the stored image has the size of its PNG; square images,
    and those with an orientation of 2 to 4, are rotated. A json without `annotations`, as of test sets, gives images
    without labels.
    """

    def __init__(
        self,
        split: str,
        root: str | None = None,
        preset: Preset | None = None,
        annotations: str | None = None,
        segments: str | None = None,
        images: str | None = None,
        masks: bool = False,
        semantic: bool = False,
        empty_segments: bool | None = None,
        outside_paths: bool = False,
        limit: int | None = None,
        *,
        scan: Scan = STRICT_SCAN,
        channels: Channels = RGB,
    ) -> None:
        if limit is not None and limit < 1:
            raise DataError(f"data.limit is {limit}; expected at least 1 image.")
        arguments = {"annotations": annotations, "segments": segments, "images": images}
        arguments |= {"empty_segments": empty_segments}  # type: ignore[dict-item]
        given = {name: value for name, value in arguments.items() if value is not None}
        options: dict[str, Any] = _COCO | (load_preset(PRESETS, preset) if preset is not None else {}) | given
        base = root_folder(root)
        check_split(base, split, [options[name] for name in ("annotations", "segments", "images")])
        read = read_panoptic_annotations(_split_path(base, split, "annotations", options["annotations"]), scan)
        self._annotations = read if limit is None else read.head(limit)
        self._split = split
        self._folder, self._images = _image_paths(
            base, split, options["images"], self._annotations, outside_paths, scan
        )
        self.channels = channels_of_files((self.path(index) for index in range(len(self._images))), channels)
        self._segments = ""
        if read.labelled:
            self._segments = str(_split_path(base, split, "segments", options["segments"]))
            names = [os.fsdecode(name) for name in self._annotations.segment_files]
            if not outside_paths:
                check_file_names(read.file, self._annotations.image_ids.tolist(), names, self._segments)
            folder = Path(self._segments)
            names = scan.existing_files(folder, names, read.file, "PNGs of segments", outside_paths)
            files = np.array([os.fsencode(name) for name in names], np.bytes_)
            self._annotations = replace(self._annotations, segment_files=files)
        self._empty_segments: bool = options["empty_segments"]
        images = hashlib.sha256(self._images.tobytes()).hexdigest()
        key = ["coco_panoptic", str(read.file), images, self._segments, self._empty_segments, repr(self.channels)]
        arrays = cached_scan(scan, key, lambda: self._scan_files(scan), self._files, len(self) >= LARGE)
        self._sizes, self._upright = arrays["sizes"], arrays["upright"]
        self._annotations = replace(self._annotations, area=arrays["area"], boxes=arrays["boxes"]).without_empty()
        self.classes = {
            "panoptic": read.classes,
            "detection": tuple(c for c in read.classes if c.thing),
            "segmentation": read.classes,
        }
        self._thing_index = np.cumsum([c.thing for c in read.classes]) - 1  # (K,), of things
        wanted = {"masks": masks, "semantic": semantic}
        keys = ("panoptic", "panoptic_crowds", "boxes", "labels", *(key for key, on in wanted.items() if on))
        self.provides = keys if read.labelled else ()

    def __len__(self) -> int:
        return len(self._annotations)

    def check_labels(self) -> None:
        """Raises DataError if the split has no segment that is not a crowd."""
        if self._annotations.iscrowd.all():
            raise DataError(
                f"{self._annotations.file}: the split {self._split!r} has no segment except crowds: nothing can be "
                "learned or measured. Check its `annotations`."
            )

    def sizes(self) -> np.ndarray:
        """Returns (N, 2) heights and widths of the images as `__getitem__` returns them."""
        return self._sizes

    def object_counts(self) -> np.ndarray:
        """Returns (N,) segments per image, things and stuff, without crowds."""
        count = np.concatenate([[0], np.cumsum(~self._annotations.iscrowd)])
        return np.diff(count[self._annotations.first])

    def image_classes(self) -> np.ndarray:
        """Returns (P, 2) image and class of each segment, things and stuff, without crowds."""
        known = self._annotations
        images = np.repeat(np.arange(len(known)), np.diff(known.first))
        return np.stack([images, known.labels], axis=1)[~known.iscrowd]

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Recognises a folder in COCO's official layout, without a json of instances."""
        pattern = str(_COCO["annotations"]).replace("{split}", "train")
        instances = any(root.glob("annotations/instances_*.json"))
        return {} if (root / pattern).is_file() and not instances else None

    def path(self, index: int) -> str:
        """Returns the file of an image."""
        return os.fsdecode(self._images[index])

    def image_name(self, index: int) -> str:
        """Returns the path of an image's file below the folder of images."""
        return Path(os.path.relpath(self.path(index), self._folder)).as_posix()

    def segments_path(self, index: int) -> str:
        """Returns the PNG of an image's segments."""
        return os.path.join(self._segments, os.fsdecode(self._annotations.segment_files[index]))

    def __getitem__(self, index: int) -> Sample:
        """Returns the sample; if labelled, with boxes, labels, area and iscrowd of things, including crowds."""
        pixels = read_image(self.path(index), self.channels, bool(self._upright[index]))
        size = (int(self._sizes[index, 0]), int(self._sizes[index, 1]))
        if pixels.shape[:2] != size:
            raise DataError(f"{self.path(index)} has changed since the start: {pixels.shape[:2]} pixels, not {size}.")
        targets: Targets = {"image_id": self._annotations.image_ids[index].item()}
        if self._annotations.labelled:
            targets |= self._targets(index, size)
        return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "targets": targets}

    def _targets(self, index: int, size: tuple[int, int]) -> Targets:
        known, rows = self._annotations, self._annotations.rows(index)
        runs = Runs.of(read_segment_ids(self.segments_path(index)))
        found, unknown = _rows_of(runs, known.ids[rows])
        if runs.size != size or unknown.any():
            raise DataError(f"{self.segments_path(index)} has changed since the start.")
        labels, iscrowd = known.labels[rows], known.iscrowd[rows]
        ids = panoptic_ids(labels)
        things = np.flatnonzero([known.classes[label].thing for label in labels])
        targets: Targets = {
            "panoptic": torch.from_numpy(runs.filled(np.append(ids, np.int32(VOID))[found])),
            "panoptic_crowds": ids[iscrowd].tolist(),
            "boxes": torch.from_numpy(known.boxes[rows][things].astype(np.float32)),
            "labels": torch.from_numpy(self._thing_index[labels[things]].astype(np.int64)),
            "area": torch.from_numpy(known.area[rows][things].astype(np.float64)),
            "iscrowd": torch.from_numpy(iscrowd[things]),
        }
        if "masks" in self.provides:
            targets["masks"] = RunLengthMasks.from_ids(targets["panoptic"].numpy(), ids[things])
        if "semantic" in self.provides:
            targets["semantic"] = torch.from_numpy(runs.filled(np.append(labels, IGNORE).astype(np.uint8)[found]))
        return targets

    def _scan_files(self, scan: Scan) -> Arrays:
        """Checks all files, and measures images and segments."""
        self._sizes, self._upright = np.ones((len(self), 2), np.int32), np.ones(len(self), bool)
        labelled = self._annotations.labelled
        scan.examine_files(len(self), self._validate, "Validating segments" if labelled else "Validating images")
        measured = {"area": self._annotations.area, "boxes": self._annotations.boxes}
        return {"sizes": self._sizes, "upright": self._upright, **measured}

    def _files(self, _: Arrays) -> list[str]:
        paths = [path for index in range(len(self)) for path in channel_paths(self.path(index), self.channels)]
        segments = [self.segments_path(index) for index in range(len(self))] if self._annotations.labelled else []
        return [str(self._annotations.file), *paths, *segments]

    def _validate(self, index: int) -> None:
        """Checks an image and its PNG, and measures its segments."""
        header = image_header(self.path(index), self.channels)
        self._sizes[index] = header.upright_size
        if not self._annotations.labelled:
            return
        path = self.segments_path(index)
        size = label_size_of(path)
        if size not in (header.upright_size, header.size):
            (height, width), (h, w) = header.upright_size, size
            raise DataError(
                f"{self.path(index)} has {width} x {height} pixels, but its segments {path} have {w} x {h}. One of "
                "them was resized, or belongs to another; resize the segments to the image's size (nearest pixel)."
            )
        self._sizes[index], self._upright[index] = size, size == header.upright_size
        rows, runs = self._annotations.rows(index), Runs.of(read_segment_ids(path))
        count = rows.stop - rows.start
        found, unknown = _rows_of(runs, self._annotations.ids[rows])
        if unknown.any():
            self._raise_unlisted(index, runs, unknown)
        area = runs.areas(found, count + 1)[:count]
        if not self._empty_segments and not area.all():
            self._raise_empty(index, np.flatnonzero(area == 0))
        self._annotations.area[rows] = area
        self._annotations.boxes[rows] = runs.boxes(found, count + 1)[:count]

    def _raise_unlisted(self, index: int, runs: Runs, unknown: np.ndarray) -> None:
        ids, inverse = np.unique(runs.ids[unknown], return_inverse=True)
        pixels = np.bincount(inverse, runs.lengths[unknown]).astype(int)
        listed = ", ".join(
            f"{one} in {count} pixel{'s' if count > 1 else ''}"
            for one, count in zip(ids[:_LISTED], pixels, strict=False)
        )
        more = f", and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
        raise DataError(
            f"{self.segments_path(index)} has segment ids that {self._annotations.file} does not list for image "
            f"{self._annotations.image_ids[index].item()}: {listed}{more}. Add each to its `segments_info`, or make "
            "these pixels 0 (void)."
        )

    def _raise_empty(self, index: int, empty: np.ndarray) -> None:
        known, rows = self._annotations, self._annotations.rows(index)
        listed = []
        for i in empty[:_LISTED]:
            annotated = f", {known.area[rows][i]} pixels by its `area`" if known.area[rows][i] >= 0 else ""
            listed.append(f"{known.ids[rows][i]} ({known.classes[known.labels[rows][i]].name}{annotated})")
        more = f", and {len(empty) - _LISTED} more" if len(empty) > _LISTED else ""
        raise DataError(
            f"{self.segments_path(index)} has 0 pixels of segments that {known.file} lists for image "
            f"{known.image_ids[index].item()}: {', '.join(listed)}{more}. Is it the PNG of another image? If such "
            "segments are hidden, set data.empty_segments=true, which leaves them out."
        )


def _rows_of(runs: Runs, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the index (R,) of each run's segment in ids (K,), K for void; and which ids are unknown, (R,) bool."""
    order = np.argsort(ids)
    place = np.searchsorted(ids, runs.ids, sorter=order)
    rows = np.append(order, len(ids))[place]
    listed = np.append(ids, 0)[rows] == runs.ids
    return np.where(listed, rows, len(ids)), ~listed & (runs.ids != 0)


def _split_path(base: Path, split: str, option: str, pattern: str) -> Path:
    """Returns the path of a split. Raises DataError if it does not exist."""
    paths = [base / pattern.replace("{split}", name) for name in spellings(split)]
    there = next((path for path in paths if path.exists()), None)
    if there is None:
        raise DataError(f"There is no {paths[0]}. Name it with data.{option}, relative to data.root.")
    return there


def _image_paths(
    base: Path, split: str, pattern: str, annotations: PanopticAnnotations, outside_paths: bool, scan: Scan
) -> tuple[str, np.ndarray]:
    """Returns the folder of all images, and their paths, (N,) bytes. Raises DataError for missing images, for those
    outside of their folder unless allowed, and for ids that two files of a pattern have."""
    if "*" not in pattern:
        folder = _split_path(base, split, "images", pattern)
        names = [os.fsdecode(name) for name in annotations.image_names]
        if not outside_paths:
            check_file_names(annotations.file, annotations.image_ids.tolist(), names, folder)
        names = scan.existing_files(folder, names, annotations.file, outside_paths=outside_paths)
        scan.record_files(str(folder / name) for name in names)
        return str(folder), np.array([os.fsencode(folder / name) for name in names], np.bytes_)
    candidates = [pattern.replace("{split}", name) for name in spellings(split)]
    used = next((one for one in candidates if glob.glob(one, root_dir=base)), candidates[0])
    ids = [str(one) for one in annotations.image_ids.tolist()]
    by_id: dict[str, str] = dict.fromkeys(ids, "")
    for name, path in list_files(base, used, IMAGES, "images").items():
        own = name.split("/")[-1]
        if by_id.get(own):
            raise DataError(
                f"{base / by_id[own]} and {base / path} have the same name, which is the id {own} in "
                f"{annotations.file}: expected one file per id. Fix: rename one, or name the folder in data.images."
            )
        if own in by_id:
            by_id[own] = path
    if missing := [one for one in ids if not by_id[one]]:
        raise DataError(
            f"{annotations.file} names {len(ids)} images, of which {len(missing)} do not exist as {base / used}: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
        )
    folder = base / os.path.dirname(used.partition("*")[0])
    return str(folder), np.array([os.fsencode(base / by_id[one]) for one in ids], np.bytes_)
