"""Reads and checks all files of a split in COCO's format."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from densevit.channels import Channels
from densevit.data.datasets.coco_annotations import Annotations, read_annotations
from densevit.data.datasets.coco_inventory import (
    crowd_note,
    image_files,
    named_files,
    unlisted_note,
    without_named,
)
from densevit.data.datasets.coco_layouts import SplitFiles
from densevit.data.datasets.coco_orientation import Grid, Reading, decide, evidence_of, grids_of, turned
from densevit.data.datasets.dataset_validation import Scan, validate_images
from densevit.data.datasets.division import DEFAULT_SHARE, division_text, validation_part
from densevit.data.datasets.scan_cache import Arrays, json_array, json_value
from densevit.data.io.channel_files import channel_paths
from densevit.data.io.file_lookup import find_file
from densevit.data.outside_paths import check_file_names
from densevit.errors import DataError


@dataclass(frozen=True)
class ScanOptions:
    """Options of `Coco` on which a scan depends.

    part: "train" or "val" if the json has the images of both. search_unlisted: whether to search for image files beside
    the images that no json names; an examination always does.
    """

    masks: bool
    limit: int | None
    outside_paths: bool
    part: str | None
    val_share: float | None
    boxes: Grid | None
    crowds: Literal["ignore", "objects"] | None
    search_unlisted: bool
    channels: Channels


@dataclass(frozen=True)
class JsonFacts:
    """What an examination gets of a json. annotations: those of the images of all parts. crowds: (M,) bool, `iscrowd`
    as it is written. unclear: the files whose boxes may be on either grid, of `images`."""

    annotations: Annotations
    crowds: np.ndarray
    options: ScanOptions
    reading: Reading
    unclear: Sequence[str]
    images: int


@dataclass(frozen=True)
class SplitFacts:
    """What an examination gets of a split that was read. read: the chosen images of the whole json, with the sizes of
    their grids. names, stored: their files and the files' sizes. in_part, chosen: (I,) bool, which images of the json
    are in the part, and which are used. unclear: the indices of `JsonFacts.unclear`. there: the image files beside the
    images. of_others: those that the json does not name. unlisted: those that no json names."""

    of_json: JsonFacts
    read: Annotations
    folder: Path
    names: Sequence[str]
    in_part: np.ndarray
    chosen: np.ndarray
    stored: np.ndarray
    unclear: np.ndarray
    there: set[str]
    of_others: set[str]
    unlisted: Sequence[str]


def scan_files(scan: Scan, files: SplitFiles, others: Sequence[SplitFiles], options: ScanOptions) -> Arrays:
    """Returns the arrays of the annotations, the names of the images' files, whether EXIF rotates each image, and notes
    for the user.

    others: the jsons of the other splits, which take the same reading of an ambiguous orientation.
    """
    examination, file = scan.examination, files.file
    whole = read_annotations(file, options.masks, scan)
    crowds = whole.iscrowd
    if options.crowds == "objects":
        whole = replace(whole, iscrowd=np.zeros_like(crowds))
    names = _names(whole)
    folder, division = files.image_folder(names), ""
    if not options.outside_paths:
        check_file_names(file, whole.image_ids.tolist(), names, folder)
    in_part = np.ones(len(whole), bool)
    if options.part is not None:
        found = [find_file(folder, name, options.outside_paths) or name for name in names]
        share = options.val_share or DEFAULT_SHARE
        in_val = validation_part([str(folder / name) for name in found], share, file, options.channels)
        in_part, division = in_val == (options.part == "val"), division_text(in_val, options.val_share, file)
    chosen = in_part if options.limit is None else in_part & (np.cumsum(in_part) <= options.limit)
    read = whole.subset(chosen)
    names = scan.existing_files(folder, _names(read), file, outside_paths=options.outside_paths)
    stored, orientations = validate_images(scan, folder, names, read.sizes, file, options.channels)
    reading, unclear = _reading(read, stored, orientations, [files, *others], options)
    if examination is not None:
        unclear_names = [names[i] for i in unclear]
        of_json = JsonFacts(whole, crowds, options, reading, unclear_names, len(names))
        examination.facts.append(of_json)
    elif not reading.decided:
        raise DataError(f"{file}: {reading.text}")
    sizes, upright = grids_of(read.sizes, stored, orientations, reading.grid)
    _check_sizes(read, sizes)
    read = replace(read, sizes=sizes)
    folders = sorted({os.path.dirname(folder / name) for name in names})
    there = image_files(folders, options.channels) if options.search_unlisted or examination is not None else set()
    of_others = without_named(there, [(folder, _names(whole))])
    unlisted = sorted(without_named(of_others, map(named_files, others)))
    notes = [reading.text, "" if options.crowds else crowd_note(crowds), unlisted_note(unlisted)]
    if examination is not None:
        examination.facts.append(
            SplitFacts(of_json, read, folder, names, in_part, chosen, stored, unclear, there, of_others, unlisted)
        )
    return read.arrays() | {
        "folder": json_array(str(folder)),
        "names": np.array([name.encode() for name in names]),
        "upright": upright,
        "division": json_array(division),
        "notes": json_array([note for note in notes if note]),
        "others": json_array(folders + [str(other.file) for other in others]),
    }


def scanned_files(file: Path, channels: Channels, arrays: Arrays) -> list[str]:
    """Returns the json and the images of a scan, and the jsons of other splits that it has read."""
    folder = json_value(arrays["folder"])
    images = (os.path.join(folder, name.decode()) for name in arrays["names"].tolist())
    files = (file for image in images for file in channel_paths(image, channels))
    return [str(file), *json_value(arrays["others"]), *files]


def _names(read: Annotations) -> list[str]:
    return [name.decode() for name in read.file_names.tolist()]


def _reading(
    read: Annotations,
    stored: np.ndarray,
    orientations: np.ndarray,
    jsons: Sequence[SplitFiles],
    options: ScanOptions,
) -> tuple[Reading, np.ndarray]:
    """Returns the reading of a split, and the indices of the images whose boxes may be on either grid."""
    turned_images = turned(stored, orientations)
    has_stored_size = turned_images & (read.sizes == stored).all(axis=1)
    has_no_size = turned_images & (read.sizes == 0).any(axis=1)
    unclear = np.flatnonzero(has_stored_size | has_no_size)
    first = read.file_names[unclear[0]].decode() if len(unclear) else ""
    evidence = evidence_of(jsons, options.outside_paths, options.channels)
    counts = int(has_stored_size.sum()), int(has_no_size.sum()), len(read)
    return decide(*counts, first, options.boxes, evidence), np.flatnonzero(has_stored_size)


def _check_sizes(read: Annotations, sizes: np.ndarray) -> None:
    """Raises DataError if a segmentation is for another size than that of its image. sizes: (N, 2)."""
    if read.segmentations is None:
        return
    made_for = read.segmentations.sizes  # (M, 2)
    of_object = np.repeat(sizes, np.diff(read.first), axis=0)
    wrong = np.flatnonzero((made_for[:, 0] > 0) & (made_for != of_object).any(axis=1))
    if len(wrong):
        (height, width), (h, w) = made_for[wrong[0]].tolist(), of_object[wrong[0]].tolist()
        raise DataError(
            f"{read.file}: annotation {read.ids[wrong[0]]}: its `segmentation` is for an image of {width} x "
            f"{height}, but the image has {w} x {h}."
        )
