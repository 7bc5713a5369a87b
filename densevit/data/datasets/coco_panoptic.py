"""Images with segments in COCO's panoptic format: a json, and PNGs with segment ids as colours."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from densevit.channels import RGB, Channels
from densevit.data.datasets.division import part_of
from densevit.data.datasets.file_checks import OnError, check_each
from densevit.data.datasets.image_files import existing_files
from densevit.data.datasets.measured_images import MeasuredImages
from densevit.data.datasets.pair_paths import PairPaths, list_files
from densevit.data.datasets.paired_dataset import load_preset
from densevit.data.datasets.panoptic_annotations import PanopticAnnotations, panoptic_ids, read_panoptic_annotations
from densevit.data.datasets.split_folders import check_limit, check_split, limited, root_folder, spellings, split_path
from densevit.data.io.channel_files import IMAGES
from densevit.data.io.label_files import label_size_of
from densevit.data.io.panoptic_files import Runs, read_segment_ids
from densevit.errors import DataError, counted, listed
from densevit.interfaces import IGNORE, VOID, Sample, Size, Targets
from densevit.targets.run_length_masks import RunLengthMasks

Preset = Literal["ade20k", "cityscapes"]

PRESETS = Path(__file__).parent / "presets" / "panoptic"
_COCO = {
    "annotations": "annotations/panoptic_{split}2017.json",
    "segments": "annotations/panoptic_{split}2017",
    "images": "{split}2017",
    "empty_segments": False,
}
CHECKED = 200  # PNGs that are read before training


class CocoPanoptic(MeasuredImages):
    """Things and stuff from a COCO panoptic json and its PNGs: `panoptic` (H, W), and boxes of things.

    root: the data set's folder; the paths below are relative to it, and {split} in them becomes the split's name, also
        as training, valid or validation.
    preset: the options of a published data set, in presets/panoptic/PRESET.yaml next to this file; by default COCO's
        official layout. Other options override the preset.
    annotations: the json. segments: the folder of its PNGs; a pixel's segment id is R + 256 G + 65536 B, and 0 is void.
        images: the folder of its images, or a pattern such as "leftImg8bit/{split}/*/*_leftImg8bit.png", whose last
        star matches an image's id.
    masks: whether to return instance masks of things. semantic: whether to return the label map, with the classes of
        `panoptic`; void is ignored.
    empty_segments: whether to leave out segments of the json without pixels in their PNG; otherwise they are an error.
    outside_paths: whether a `file_name` may lead out of its folder, by `..` or as an absolute path.
    val_share: the share of the validation images of a data set without a val split, by default 0.2, as for `LabelMaps`.
    limit: the number of images to use, the first ones.

    `panoptic_crowds` are the panoptic ids of an image's crowds. Boxes and area are measured in the PNGs. `check_files`
    checks that images and PNGs are complete and have the same size, and `check_labels` that the json and the first 200
    PNGs have the same segments. EXIF rotates an image unless only the stored image has the size of its PNG; square
    images and orientations of 2 to 4 are always rotated. A json without `annotations`, such as a test set's, gives
    images without labels.
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
        val_share: float | None = None,
        limit: int | None = None,
        *,
        on_error: OnError = "raise",
        channels: Channels = RGB,
    ) -> None:
        check_limit(limit)
        paths = {"annotations": annotations, "segments": segments, "images": images}
        options, base = _options({"preset": preset} | paths), root_folder(root)
        check_split(base, split, [options[name] for name in paths])
        has_parts = PairPaths(options["annotations"], "").is_divided(base, split, val_share)
        self._split, self._on_error, split = split, on_error, "train" if has_parts else split
        self.file = _split_path(base, split, "annotations", options["annotations"])
        read = read_panoptic_annotations(self.file)
        chosen = np.ones(len(read), bool)
        if has_parts:
            folder, names, _ = _image_names(base, split, options["images"], read, outside_paths)
            chosen, self.division = part_of(
                self._split, [str(folder / name) for name in names], val_share, self.file, channels
            )
        self.annotations = read.subset(limited(chosen, limit))
        self._empty_segments: bool = options["empty_segments"] if empty_segments is None else empty_segments
        self.folder, names, self.missing = _image_names(base, split, options["images"], self.annotations, outside_paths)
        self.open(self.folder, names, channels)
        self._segments, self._segment_files = "", self.annotations.segment_files
        if read.labelled:
            folder = _split_path(base, split, "segments", options["segments"])
            names = [os.fsdecode(name) for name in self.annotations.segment_files]
            existing_names = existing_files(folder, names, self.file, outside_paths)[0]
            self._segments, self._segment_files = (
                str(folder),
                np.array([os.fsencode(name) for name in existing_names], np.bytes_),
            )
        self.classes = {
            "panoptic": read.classes,
            "detection": tuple(c for c in read.classes if c.thing),
            "segmentation": read.classes,
        }
        self._thing_index = np.cumsum([c.thing for c in read.classes]) - 1  # (K,), of things
        wanted = {"masks": masks, "semantic": semantic}
        keys = ("panoptic", "panoptic_crowds", "boxes", "labels", *(key for key, on in wanted.items() if on))
        self.provides = keys if read.labelled else ()

    def check_labels(self) -> None:
        """Reads the first 200 PNGs. Raises DataError if the segments of a PNG and of the json differ, and if all
        segments of the split are crowds."""
        if self.annotations.iscrowd.all():
            raise DataError(
                f"{self.file}: the split {self._split!r} has no segment except crowds: nothing can be learned or "
                "measured. Check its `annotations`."
            )
        check_each(min(len(self), CHECKED), self.segments, self._on_error)

    def grid(self, index: int, stored: Size, upright: Size) -> tuple[Size, bool]:
        """Returns the size of an image's PNG, and whether the upright image has this size."""
        if not self._segments:
            return upright, True
        path = self.segments_path(index)
        return self.label_grid(index, "panoptic map", path, label_size_of(path), stored, upright)

    def other_files(self, index: int) -> list[str]:
        """Returns the PNG of an image's segments."""
        return [self.segments_path(index)] if self._segments else []

    def object_counts(self) -> np.ndarray:
        """Returns (N,) segments per image, things and stuff, without crowds."""
        return self.annotations.counts(~self.annotations.iscrowd)

    def image_classes(self) -> np.ndarray:
        """Returns (P, 2) image and class of each segment, things and stuff, without crowds."""
        return self.annotations.image_classes(~self.annotations.iscrowd)

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Returns {} if the folder has COCO's official panoptic layout and no json of instances, else None."""
        pattern = str(_COCO["annotations"]).replace("{split}", "train")
        instances = any(root.glob("annotations/instances_*.json"))
        return {} if (root / pattern).is_file() and not instances else None

    def segments_path(self, index: int) -> str:
        """Returns the PNG of an image's segments."""
        return os.path.join(self._segments, os.fsdecode(self._segment_files[index]))

    def __getitem__(self, index: int) -> Sample:
        """Returns the sample; if labelled, with boxes, labels, area and iscrowd of things, including crowds."""
        targets: Targets = {"image_id": self.annotations.image_ids[index].item()}
        if self._segments:
            targets |= self._targets(index)
        return {"image": self.image(index), "targets": targets}

    def _targets(self, index: int) -> Targets:
        runs, run_rows = self.segments(index)
        annotations, rows = self.annotations, self.annotations.rows(index)
        if runs.size != self.size(index):
            raise DataError(f"{self.segments_path(index)} has changed since the start.")
        count = rows.stop - rows.start
        area, boxes = runs.areas(run_rows, count + 1)[:count], runs.boxes(run_rows, count + 1)[:count]
        labels, iscrowd, ids = annotations.labels[rows], annotations.iscrowd[rows], np.zeros(count, np.int32)
        ids[area > 0] = panoptic_ids(labels[area > 0])
        things = np.flatnonzero(np.array([annotations.classes[label].thing for label in labels], bool) & (area > 0))
        targets: Targets = {
            "panoptic": torch.from_numpy(runs.filled(np.append(ids, np.int32(VOID))[run_rows])),
            "panoptic_crowds": ids[iscrowd & (area > 0)].tolist(),
            "boxes": torch.from_numpy(boxes[things].astype(np.float32)),
            "labels": torch.from_numpy(self._thing_index[labels[things]].astype(np.int64)),
            "area": torch.from_numpy(area[things].astype(np.float64)),
            "iscrowd": torch.from_numpy(iscrowd[things]),
        }
        if "masks" in self.provides:
            targets["masks"] = RunLengthMasks.from_ids(targets["panoptic"].numpy(), ids[things])
        if "semantic" in self.provides:
            targets["semantic"] = torch.from_numpy(runs.filled(np.append(labels, IGNORE).astype(np.uint8)[run_rows]))
        return targets

    def segments(self, index: int) -> tuple[Runs, np.ndarray]:
        """Reads an image's PNG: its runs, and the row (R,) of each run's segment; void has the row after the last.

        Raises DataError for segments that only the PNG or only the json has.
        """
        runs = Runs.of(read_segment_ids(self.segments_path(index)))
        ids = self.annotations.ids[self.annotations.rows(index)]
        run_rows, unknown = _rows_of(runs, ids)
        image = self.annotations.image_ids[index].item()
        if unknown.any():
            red, green, blue = (runs.ids[unknown] >> shift & 255 for shift in (0, 8, 16))
            fix = (
                "With red and blue exchanged it does. Fix: cv2.imwrite takes BGR: write colours[..., ::-1]."
                if np.isin(blue | green << 8 | red << 16, ids).all()
                else "Add each to its `segments_info`, or make these pixels 0 (void)."
            )
            raise DataError(
                f"{self.segments_path(index)} has {counted(len(np.unique(runs.ids[unknown])), 'segment id')} that "
                f"{self.file} does not list for image {image}, such as {runs.ids[unknown][0]}. {fix}"
            )
        empty = np.flatnonzero(runs.areas(run_rows, len(ids) + 1)[:-1] == 0)
        if len(empty) and not self._empty_segments:
            raise DataError(
                f"{self.segments_path(index)} has 0 pixels of {counted(len(empty), 'segment')} that {self.file} lists "
                f"for image {image}: {listed(ids[empty])}. Is it the PNG of another image? If such segments are "
                "hidden, set data.empty_segments=true, which leaves them out."
            )
        return runs, run_rows


def panoptic_json(root: Path, split: str, options: Mapping[str, Any]) -> Path:
    """Returns the json of a split. given: options of `CocoPanoptic`."""
    return _split_path(root, split, "annotations", _options(options)["annotations"])


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Completes options by the preset's and then by COCO's official layout."""
    preset = load_preset(PRESETS, options["preset"]) if options.get("preset") is not None else {}
    return _COCO | preset | {name: value for name, value in options.items() if value is not None}


def _rows_of(runs: Runs, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row (R,) of each run's id in ids (K,), or K if it is void or unknown; and whether it is unknown, (R,)
    bool."""
    order = np.argsort(ids)
    positions = np.searchsorted(ids, runs.ids, sorter=order)
    rows = np.append(order, len(ids))[positions]
    listed = np.append(ids, 0)[rows] == runs.ids
    return np.where(listed, rows, len(ids)), ~listed & (runs.ids != 0)


def _split_path(base: Path, split: str, option: str, pattern: str) -> Path:
    """Returns the path of a split. Raises DataError if it does not exist."""
    paths = [base / split_path(pattern, name) for name in spellings(split)]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise DataError(f"There is no {paths[0]}. Name it with data.{option}, relative to data.root.")
    return path


def _image_names(
    base: Path, split: str, pattern: str, annotations: PanopticAnnotations, outside_paths: bool
) -> tuple[Path, list[str], list[int]]:
    """Returns the folder of all images, their paths in it, and the indices of images that do not exist. Raises
    DataError for images outside of their folder unless allowed, and for ids that a pattern matches never or twice."""
    if "*" not in pattern:
        folder = _split_path(base, split, "images", pattern)
        names = [os.fsdecode(name) for name in annotations.image_names]
        return folder, *existing_files(folder, names, annotations.file, outside_paths)
    candidates = [split_path(pattern, name) for name in spellings(split)]
    used = next((candidate for candidate in candidates if glob.glob(candidate, root_dir=base)), candidates[0])
    ids = [str(image_id) for image_id in annotations.image_ids.tolist()]
    by_id: dict[str, str] = dict.fromkeys(ids, "")
    for name, path in list_files(base, used, IMAGES, "images").items():
        image_id = name.split("/")[-1]
        if by_id.get(image_id):
            raise DataError(
                f"{base / by_id[image_id]} and {base / path} have the same name, which is the id {image_id} in "
                f"{annotations.file}: expected one file per id. Fix: rename one, or name the folder in data.images."
            )
        if image_id in by_id:
            by_id[image_id] = path
    if missing := [image_id for image_id in ids if not by_id[image_id]]:
        raise DataError(
            f"{annotations.file} names {len(ids)} images, of which {len(missing)} do not exist as {base / used}: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
        )
    folder = base / os.path.dirname(used.partition("*")[0])
    return folder, [os.path.relpath(base / by_id[image_id], folder) for image_id in ids], []
