"""Folders of images and depth maps: public data sets and custom folders."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from densevit.channels import RGB, Channels
from densevit.config import DataSection
from densevit.data.datasets import depth_range
from densevit.data.datasets.depth_values import Calibration, DepthType, DepthValues, Unknown
from densevit.data.datasets.division import is_divided
from densevit.data.datasets.file_checks import OnError, check_each
from densevit.data.datasets.focal_lengths import focal_lengths
from densevit.data.datasets.pair_paths import PairPaths
from densevit.data.datasets.paired_dataset import PairedDataset, load_preset
from densevit.data.datasets.paired_files import PairedFiles, find_pairs
from densevit.data.datasets.split_folders import check_limit, check_split, missing_split, root_folder
from densevit.data.io.depth_files import SUFFIXES, depth_size_of, read_depth
from densevit.data.io.exif import exif_focal
from densevit.errors import DataError, counted, warn_once
from densevit.interfaces import Sample, Size, TargetType
from densevit.model import InferenceModel
from densevit.targets.pixel_maps import Depth

Preset = Literal["diode", "kitti", "nyu"]
Where = str | dict[str, str]

PRESETS = Path(__file__).parent / "presets" / "depth"
_PATHS = ("images", "labels", "list_file", "valid")
_DEFAULTS: dict[str, Any] = {
    "images": "images/{split}",
    "labels": "labels/{split}",
    "depth_type": "depth",
    "metric": True,
    "depth_range": (0.05, 250.0),
}


class DepthMaps(PairedDataset):
    """Depth for each pixel, from PNG, TIFF, NPY, NPZ, EXR or PFM files; `targets["depth"]`, 0 = unknown.

    root: the data set's folder. The paths below are relative to it; {split} in them becomes the split's name. Each is a
        path for both splits, or {train: ..., val: ...}.
    preset: the options of a published data set, in presets/depth/PRESET.yaml next to this file. Other options override
        the preset.
    images, labels: folders, in which files of the same name are pairs, or patterns such as "{split}/*/im0.png", in
        which the stars match the name (see `find_pairs`). By default images/{split} and labels/{split}.
    list_file: the images to use, one name per line, or the paths of an image and its depth map, and optionally the
        focal length in pixels of the stored image. An image whose depth map is None is left out.
    splits: the names of train and val on disk, {train: part1}; by default also training, valid and validation.
    key: the array of NPZ, or the channel of EXR files, to read.
    depth_type: what stored values times scale are: depth; disparity, in pixels; or inverse_depth.
    scale: metres (inverse_depth: 1/metres) per unit in a file: 0.001 for millimetres. Required for files of integers.
    metric: false for relative depth, known up to its unit (or, for disparity, without calibration).
    stereo: calibration of disparity, depth = baseline * focal / (disparity + doffs); metres, pixels, pixels.
    focal: the focal length in pixels of the stored images, for heads of a canonical camera. None: of `list_file`, or of
        focal.json or focal.csv in the folder of the images (see `focal_lengths`), or of `stereo`, or from EXIF if the
        first image has it there.
    valid: a folder or pattern of validity masks, NPY or PNG, where 0 is unknown.
    unknown: stored values that mean unknown, and the limits in metres outside of which depth is unknown (see
        `Unknown`).
    depth_range: [minimum, maximum] in metres of the expected median of all depth; by default [0.05, 250].
    outside_paths: whether a list may name files outside of root, `images` and `labels`.
    val_share: the share of the validation images of a data set without a val split, by default 0.2, as for `LabelMaps`.
    limit: the number of images to use, the first ones.

    `check_labels` reads all depth maps, or 128 of many, and prints their range and median on stderr; a median outside
    of `depth_range` is an error. `metric` says whether depth is in metres.
    """

    noun = "depth map"
    provides = ("depth",)

    def __init__(
        self,
        split: str,
        root: str | None = None,
        preset: Preset | None = None,
        images: Where | None = None,
        labels: Where | None = None,
        list_file: Where | None = None,
        splits: dict[str, str] | None = None,
        key: str | None = None,
        depth_type: DepthType | None = None,
        scale: float | None = None,
        metric: bool | None = None,
        stereo: Calibration | None = None,
        focal: float | None = None,
        valid: Where | None = None,
        unknown: Unknown | None = None,
        depth_range: tuple[float, float] | None = None,
        outside_paths: bool = False,
        val_share: float | None = None,
        limit: int | None = None,
        *,
        on_error: OnError = "raise",
        channels: Channels = RGB,
    ) -> None:
        arguments: dict[str, Any] = {
            **{"images": images, "labels": labels, "list_file": list_file, "splits": splits, "key": key},
            **{"depth_type": depth_type, "scale": scale, "metric": metric, "stereo": stereo, "valid": valid},
            **{"depth_range": depth_range, "focal": focal},
        }
        set_options = {name: value for name, value in arguments.items() if value is not None}
        preset_options = load_preset(PRESETS, preset) if preset is not None else {}
        options: dict[str, Any] = {**dict.fromkeys(arguments), **_DEFAULTS, **preset_options, **set_options}
        check_limit(limit)
        _check_values(options, set_options)
        self.classes = {}
        self.metric: bool = options["metric"]
        if stereo is None and options["depth_type"] == "disparity" and not self.metric:
            stereo = Calibration(1.0, 1.0)
        unknown = Unknown(**preset_options.get("unknown", {})) if unknown is None else unknown
        depth_options = {name: options[name] for name in ("depth_type", "scale", "metric")}
        self.values = DepthValues(calibration=stereo, unknown=unknown, **depth_options)
        self._key: str | None = options["key"]
        base = root_folder(root)
        self.paths, valid, has_parts = _paths(base, split, options, val_share)
        self.expected: tuple[float, float] = options["depth_range"]
        self.open_pairs(base, split, self.paths, val_share, has_parts, limit, outside_paths, channels, on_error)
        if focal is None and stereo is not None and self.metric:
            options["focal"] = stereo.focal
        self.focals = focal_lengths(base, self.pairs, options["focal"])
        self._has_exif = bool(np.isnan(self.focals).all() and exif_focal(self.path(0)))
        name = "train" if has_parts else split
        self._valid = None if valid is None else _valid_files(base, name, self.paths, valid, self.pairs, channels)

    def __getitem__(self, index: int) -> Sample:
        """Returns the sample, with `focal` if it is known."""
        sample, focal = super().__getitem__(index), float(self.focals[index])
        if self._has_exif:
            focal = exif_focal(self.path(index)) or math.nan
        return sample if math.isnan(focal) else {**sample, "targets": {**sample["targets"], "focal": focal}}

    def label_size(self, path: str) -> Size:
        """Returns (h, w) of a depth map, from its header."""
        return depth_size_of(path, self._key)

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Returns {} if images/train and labels/train exist and the label files are not 8-bit images, else None."""
        files = PairPaths(_DEFAULTS["images"], _DEFAULTS["labels"]).label_files(root, "train")
        if not files or files[0].suffix.lower() not in SUFFIXES:
            return None
        return None if read_depth(str(files[0])).dtype == np.uint8 else {}

    def scan_key(self) -> list[Any]:
        """Adds the option `key` to the cache key."""
        return [*super().scan_key(), self._key]

    def target(self, index: int) -> np.ndarray:
        """Returns `depth` (H, W) float32: in metres if `metric`, else in any unit; 0 = unknown."""
        return self.values.capped(self._depth(index, read_depth(self.label_path(index), self._key)))

    def check_labels(self) -> None:
        """Reads depth maps, all or 128 of many, and prints their range. Warns of files that seem to be in other units.
        Raises DataError if the range is implausible, and if no depth is known."""
        seen, is_known = self.measured_range(range(len(self)))
        if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
            lone = len(self.pairs.unlabelled)
            note = f"; {counted(lone, 'image')} without depth left out" if lone else ""
            print(f"depth, {self.split}: {depth_range.described(seen, self.values, len(self))}{note}", file=sys.stderr)
            for line in depth_range.other_units(seen.medians if self.metric else {}):
                warn_once(f"depth, {self.split}: {line}")
        if message := depth_range.implausible(self.split, seen, self.values, self.expected):
            raise DataError(message)
        if not is_known:
            raise DataError(
                f"{self.label_path(0)}: as in all depth maps of the split {self.split!r} that were read, no pixel has "
                "a known depth, by data.unknown: nothing can be learned or measured."
            )

    def measured_range(self, indices: Sequence[int]) -> tuple[depth_range.DepthRange, bool]:
        """Returns the range of some depth maps, and whether any depth is within the limits of `unknown`."""
        positions = np.linspace(0, len(indices) - 1, min(len(indices), depth_range.MOST_FILES)).round().astype(int)
        indices = [indices[position] for position in positions.tolist()]
        files: dict[str, depth_range.FileRange] = {}
        labelled: set[int] = set()

        def read(position: int) -> None:
            index = indices[position]
            path = self.label_path(index)
            stored = read_depth(path, self._key)
            if message := depth_range.wrong_scale(stored, path, self.values, self.expected):
                raise DataError(message)
            depth = self._depth(index, stored)
            if self.values.capped(depth).any():
                labelled.add(index)
            files[os.fsdecode(self.pairs.names[index])] = depth_range.FileRange.of(depth)

        check_each(len(indices), read, self._on_error)
        where = f"of the split {self.split!r} ({self.label_path(0)}, ...)"
        return depth_range.DepthRange.of(files, where), bool(labelled)

    def _depth(self, index: int, stored: np.ndarray) -> np.ndarray:
        """Converts stored values to depth, (H, W) float32, without the limits of `unknown`."""
        files = [(self.label_path(index), stored)]
        if self._valid is not None:
            valid = os.path.join(self.root, os.fsdecode(self._valid[index]))
            files.append((valid, read_depth(valid)))
        for path, values in files:
            if values.shape != self.size(index):
                raise DataError(f"{path} has {values.shape} pixels; expected its image's {self.size(index)}, (h, w).")
        depth = self.values.depth(stored)
        return depth if self._valid is None else np.where(files[1][1] > 0, depth, np.float32(0))


def file_types(model: InferenceModel) -> dict[str, Mapping[str, TargetType] | None]:
    """The target types of a model's predictions in files, by head; depth has the `scale` of its training data."""
    return {
        name: {**_with_unit(model.reference_data.get(name, model.training_data)), **(types or {})}
        for name, types in model.target_types.items()
    }


def _with_unit(data: DataSection | None) -> dict[str, TargetType]:
    """The target type of depth in files with a data set's unit; {} for data without one. data: the section."""
    options = data.options if data is not None and data.name == "depth" else {}
    options = {**(load_preset(PRESETS, options["preset"]) if options.get("preset") else {}), **options}
    options = {**_DEFAULTS, "scale": None} | {name: value for name, value in options.items() if value is not None}
    return {"depth": Depth(scale=options["scale"])} if options["scale"] and options["depth_type"] == "depth" else {}


def _check_values(options: Mapping[str, Any], set_options: Mapping[str, Any]) -> None:
    """Raises DataError for invalid numbers, and for disparity without the calibration that metric depth needs."""
    scale = options["scale"]
    if scale is not None and not 0 < scale < np.inf:
        raise DataError(f"data.scale is {scale}; expected a finite number above 0.")
    low, high = options["depth_range"]
    if not 0 <= low < high:
        raise DataError(f"data.depth_range is {[low, high]}; expected 0 <= minimum < maximum, in metres.")
    if "depth_range" in set_options and not options["metric"]:
        raise DataError("data.depth_range is in metres, but with data.metric=false depth is not. Leave one out.")
    if options["depth_type"] != "disparity":
        if options["stereo"] is not None:
            raise DataError(f"data.stereo is for disparity, but data.depth_type is {options['depth_type']}.")
    elif options["metric"] and options["stereo"] is None:
        raise DataError(
            "data.depth_type=disparity needs data.stereo={baseline: METRES, focal: PIXELS}. Without it depth is "
            "relative: data.metric=false."
        )


def _paths(
    base: Path, split: str, options: Mapping[str, Any], val_share: float | None
) -> tuple[PairPaths, str | None, bool]:
    """Returns the paths of a split, also of its validity masks, and whether it is a part of the images of `train`."""
    images, labels, list_file, valid = (_split_value(options[name], split, name) for name in _PATHS)
    assert images is not None and labels is not None
    paths = PairPaths(images, labels, list_file, options["splits"], SUFFIXES, "None")
    if by_split := [f"data.{name}" for name in _PATHS if isinstance(options[name], dict)]:
        return paths, valid, is_divided(split, val_share, by_split[0])
    check_split(base, split, [options[name] for name in _PATHS if options[name] is not None], paths.splits)
    return paths, valid, paths.is_divided(base, split, val_share)


def _valid_files(
    base: Path, split: str, paths: PairPaths, valid: str, pairs: PairedFiles, channels: Channels
) -> np.ndarray:
    """Returns the (N,) paths of the validity masks of these pairs."""
    stem = os.path.splitext(pairs.images[0])[0]
    if paths.list_file is not None and stem == pairs.names[0] and os.path.normpath(paths.images) != ".":
        raise DataError("data.valid pairs files by name; data.list_file must then hold names, not paths.")
    valid_pairs = find_pairs(base, split, replace(paths, labels=valid, suffixes=(".npy", ".png")), channels=channels)
    by_name = dict(zip(valid_pairs.names.tolist(), valid_pairs.labels.tolist(), strict=True))
    return np.array([by_name[name] for name in pairs.names.tolist()], np.bytes_)


def _split_value(where: Where | None, split: str, option: str) -> str | None:
    """Returns the path of a split. where: a path for every split, or {split: path}."""
    if where is None or isinstance(where, str):
        return where
    if split not in where:
        raise missing_split(f"data.{option}", split, where, f"add `{split}: PATH` to data.{option}, or ")
    return where[split]
