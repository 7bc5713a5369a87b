"""Reads and checks all files of a split in COCO's format."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from densevit.data.datasets.coco_annotations import Annotations, read_annotations
from densevit.data.datasets.coco_examination import examine_annotations, examine_crowds, examine_reading
from densevit.data.datasets.coco_inventory import (
    crowd_note,
    image_files,
    image_inventory,
    named_files,
    object_inventory,
    unlisted_note,
    without_named,
)
from densevit.data.datasets.coco_layouts import SplitFiles
from densevit.data.datasets.coco_orientation import Grid, Reading, decide, evidence_of, grids_of, turned
from densevit.data.datasets.dataset_validation import Scan, validate_images
from densevit.data.datasets.division import DEFAULT_SHARE, division_text, validation_part
from densevit.data.datasets.examination import Examination, evenly_spaced
from densevit.data.datasets.inventory import Inventory
from densevit.data.datasets.scan_cache import Arrays, json_array, json_value
from densevit.data.io.file_lookup import find_file
from densevit.data.io.images import read_image
from densevit.data.outside_paths import check_file_names
from densevit.errors import DataError
from densevit.interfaces import Sample, Targets

_DRAWN, _DRAWN_SIDE = 6, 1000  # images of which both readings are drawn, and their longer side, in pixels


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
        in_val = validation_part([str(folder / name) for name in found], share, file)
        in_part, division = in_val == (options.part == "val"), division_text(in_val, options.val_share, file)
    chosen = in_part if options.limit is None else in_part & (np.cumsum(in_part) <= options.limit)
    read = whole.subset(chosen)
    names = scan.existing_files(folder, _names(read), file, outside_paths=options.outside_paths)
    stored, orientations = validate_images(scan, folder, names, read.sizes, file)
    reading, unclear = _reading(read, stored, orientations, [files, *others], options)
    if examination is not None:
        examine_annotations(whole, examination, ambiguous=bool(len(unclear)))
        examine_reading(reading, [names[i] for i in unclear], len(names), examination)
        examine_crowds(whole, crowds, options.crowds, examination)
    elif not reading.decided:
        raise DataError(f"{file}: {reading.text}")
    sizes, upright = grids_of(read.sizes, stored, orientations, reading.grid)
    _check_sizes(read, sizes)
    read = read.rasterised(sizes, None if examination is None else examination.chosen(len(read)))
    folders = sorted({os.path.dirname(folder / name) for name in names})
    there = image_files(folders) if options.search_unlisted or examination is not None else set()
    of_others = without_named(there, [(folder, _names(whole))])
    unlisted = sorted(without_named(of_others, map(named_files, others)))
    notes = [reading.text, "" if options.crowds else crowd_note(crowds), unlisted_note(unlisted)]
    if examination is not None:
        examination.report("note", "image files that no json names", unlisted, unlisted_note(unlisted))
        _take_inventory(whole, read, folder, in_part, chosen, options, examination)
        failed = examination.failed(len(names))
        unused = without_named(there, [(folder, [name for i, name in enumerate(names) if i not in failed])])
        inventory = Inventory("image file", len(there) - len(unused))
        inventory.leave_out("of images that are not used", sorted(unused - of_others))
        inventory.leave_out("only in the json of another split", sorted(of_others - set(unlisted)))
        inventory.leave_out("in no json", unlisted)
        examination.inventories.append(inventory)
        if options.boxes is None:
            _draw_readings(read, folder, names, stored, unclear, examination)
    return read.arrays() | {
        "folder": json_array(str(folder)),
        "names": np.array([name.encode() for name in names]),
        "upright": upright,
        "division": json_array(division),
        "notes": json_array([note for note in notes if note]),
        "others": json_array(folders + [str(other.file) for other in others]),
    }


def _take_inventory(
    whole: Annotations,
    read: Annotations,
    folder: Path,
    in_part: np.ndarray,
    chosen: np.ndarray,
    options: ScanOptions,
    examination: Examination,
) -> None:
    """Adds what a split finds, uses and leaves out of its json. read: the chosen images of the whole json, with the
    sizes of their grids."""
    missing, failed = np.zeros(len(whole), bool), np.zeros(len(whole), bool)
    places = np.flatnonzero(chosen)
    missing[places] = [os.path.join(folder, name) in examination.missing for name in _names(read)]
    failed[places[sorted(examination.failed(len(read)))]] = True
    part = "in the part for training" if options.part == "val" else "in the part for validation"
    unused = [(part, ~in_part), ("beyond data.limit", ~chosen), ("without a file", missing)]
    unused.append(("with an invalid file", failed))
    examination.inventories.append(image_inventory(whole, unused))
    if whole.labelled:
        objects = chosen[whole.images]
        flat = np.zeros(len(objects), bool)
        flat[objects] = ~read.have_area()
        of_images = [(f"of images {reason}", images[whole.images]) for reason, images in unused]
        own = [("crowds", whole.iscrowd), ("without area inside their image", flat)]
        examination.inventories.append(object_inventory(whole, [*of_images, *own]))


def _draw_readings(
    read: Annotations,
    folder: Path,
    names: Sequence[str],
    stored: np.ndarray,
    unclear: np.ndarray,
    examination: Examination,
) -> None:
    """Adds samples of some images with objects, with the boxes on the upright and on the stored image."""
    with_objects = unclear[np.diff(read.first)[unclear] > 0]
    for i in with_objects[evenly_spaced(len(with_objects), _DRAWN)].tolist():
        rows = slice(int(read.first[i]), int(read.first[i + 1]))
        boxes, labels = torch.from_numpy(read.boxes[rows]), torch.from_numpy(read.labels[rows].astype(np.int64))
        samples: dict[str, Sample] = {}
        with suppress(DataError):  # reported when the image is opened
            for grid in ("upright", "stored"):
                pixels = read_image(folder / names[i], upright=grid == "upright")
                step = -(-max(pixels.shape) // _DRAWN_SIDE)
                pixels = pixels[::step, ::step].copy()
                targets: Targets = {"image_id": names[i], "size": pixels.shape[:2], "labels": labels}
                targets["boxes"] = boxes / step
                samples[grid] = {"image": torch.from_numpy(pixels).permute(2, 0, 1), "targets": targets}
            examination.readings.append((names[i], samples))


def scanned_files(file: Path, arrays: Arrays) -> list[str]:
    """Returns the json and the images of a scan, and the jsons of other splits that it has read."""
    folder = json_value(arrays["folder"])
    names = (name.decode() for name in arrays["names"].tolist())
    return [str(file), *json_value(arrays["others"]), *(os.path.join(folder, name) for name in names)]


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
    evidence = evidence_of(jsons, options.outside_paths)
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
