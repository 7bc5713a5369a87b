"""Reports unusual annotations of a COCO json that training accepts, and what its splits use and leave out."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import torch

from densevit.data.datasets.coco_annotations import Annotations
from densevit.data.datasets.coco_inventory import crowd_note, unlisted_note, without_named
from densevit.data.datasets.coco_orientation import Reading
from densevit.data.datasets.coco_scan import JsonFacts, SplitFacts
from densevit.data.datasets.examination import EXAMPLES, Examination, Severity, evenly_spaced
from densevit.data.datasets.inventory import Inventory
from densevit.data.io.images import read_image
from densevit.errors import DataError
from densevit.interfaces import Sample, Targets

Readings = tuple[str, Mapping[str, Sample]]

_MARGIN = 1.0  # pixels; a box that is farther outside is not a rounding error
_DRAWN, _DRAWN_SIDE = 6, 1000  # images of which both readings are drawn, and their longer side, in pixels


def examine(examination: Examination) -> list[Readings]:
    """Adds the findings and inventories of the splits in COCO's format. Returns images whose boxes can be read in two
    ways, with a sample for each."""
    readings: list[Readings] = []
    for facts in examination.facts:
        if isinstance(facts, JsonFacts):
            _examine_annotations(facts.annotations, examination, ambiguous=bool(len(facts.unclear)))
            _examine_reading(facts.reading, facts.unclear, facts.images, examination)
            _examine_crowds(facts.annotations, facts.crowds, facts.options.crowds, examination)
        elif isinstance(facts, SplitFacts):
            examination.report("note", "image files that no json names", facts.unlisted, unlisted_note(facts.unlisted))
            _take_inventory(facts, examination)
            if facts.of_json.options.boxes is None:
                readings += _readings(facts)
    return readings


def _examine_annotations(read: Annotations, examination: Examination, ambiguous: bool = False) -> None:
    """Reports images with several entries, and boxes that are degenerate, outside of their image, or duplicates.

    Crowds are left out: they are neither trained on nor counted. ambiguous: whether boxes may be on the upright or on
    the stored image (see `coco_orientation`): those outside are outside of both.
    """
    names, counts = np.unique(read.file_names, return_counts=True)
    twice = [f"{names[i].decode()}: {counts[i]} entries" for i in np.flatnonzero(counts > 1)]
    fix_rotated = "The boxes around them are used, and as masks the rotated rectangles."
    rotated = [f"annotation {one}" for one in read.rotated]
    examination.report("note", "rotated boxes (attributes.rotation)", rotated, fix_rotated, of=len(read.boxes))
    fix = "Merge their annotations into one entry: now each entry trains the objects of the others as background."
    examination.report("warning", "image files with several entries", twice, fix, of=len(read))
    if not len(read.boxes):
        return
    rows, limits = read.images, read.limits()
    if ambiguous:
        limits = np.tile(limits.max(axis=1, keepdims=True), 2)
    low, high = read.boxes[:, :2], read.boxes[:, 2:]
    flat = (high <= low).any(axis=1) & ~read.iscrowd
    away = ~flat & ~read.iscrowd & ((np.clip(high, 0, limits) <= np.clip(low, 0, limits)).any(axis=1))
    partly = ~flat & ~away & ~read.iscrowd & ((low < -_MARGIN) | (high > limits + _MARGIN)).any(axis=1)

    def report(title: str, fix: str, found: np.ndarray, severity: Severity = "warning") -> None:
        def example(i: int) -> str:
            size = "" if np.isinf(limits[i]).any() else f" of {limits[i, 0]:.0f} x {limits[i, 1]:.0f}"
            box = ", ".join(f"{number:g}" for number in (*low[i], *(high[i] - low[i])))
            return f"annotation {read.ids[i]} of image {read.file_names[rows[i]].decode()}{size}: [{box}]"

        examples = [example(i) for i in found[:EXAMPLES].tolist()]
        examination.report(severity, title, examples, fix, len(found), len(rows))

    out = "They are left out in training, and missed in evaluation."
    report("boxes without area", f"{out} Correct or remove them.", np.flatnonzero(flat))
    report(
        "boxes outside of their image",
        f"{out} Were images resized, or width and height exchanged?",
        np.flatnonzero(away),
    )
    fix = "They are clipped in training. Were images resized? Or are boxes x1, y1, x2, y2 instead of x, y, w, h?"
    report("boxes partly outside of their image", fix, np.flatnonzero(partly))
    table = np.column_stack([read.iscrowd, rows, read.labels, read.boxes])
    order = np.lexsort(table.T[::-1])
    doubled = np.sort(order[1:][(table[order[1:]] == table[order[:-1]]).all(axis=1)])
    doubled = doubled[~read.iscrowd[doubled]]
    fix = "Remove all but one: each is an object for the loss, and in evaluation all but one are missed."
    report("duplicate boxes (same image, class and box)", fix, doubled)
    if len(rows) > 1 and (high <= 1 + 1e-6).all():
        fix = "Multiply them by the images' width and height: COCO's boxes are in pixels."
        report("boxes within 0 ... 1, as if relative to the image", fix, np.arange(len(rows)), "error")


def _examine_reading(reading: Reading, names: Sequence[str], images: int, examination: Examination) -> None:
    """Reports photos whose boxes may be on the upright or on the stored image. names: the names of
    these files."""
    severity: Severity = "error" if not reading.decided else "warning" if reading.text else "note"
    fix = reading.text or f"data.boxes={reading.grid} is set."
    title = "images whose boxes may be on the upright image or on the stored pixels (EXIF)"
    examination.report(severity, title, names, fix, of=images)


def _examine_crowds(
    read: Annotations, iscrowd: np.ndarray, crowds: Literal["ignore", "objects"] | None, examination: Examination
) -> None:
    """Reports objects with `iscrowd` 1, (M,) bool as in the json, and images that have no other objects."""
    found = np.flatnonzero(iscrowd)
    note = crowd_note(iscrowd)
    fix = "They are used as objects (data.crowds=objects)."
    if crowds != "objects":
        fix = note or "They are not trained on, and not counted in AP (COCO's rule)."
    examples = [
        f"annotation {read.ids[i]} of image {read.file_names[read.images[i]].decode()}" for i in found[:EXAMPLES]
    ]
    severity: Severity = "warning" if note and crowds is None else "note"
    examination.report(severity, "objects with iscrowd 1", examples, fix, len(found), len(iscrowd))
    if crowds != "objects":
        only = np.flatnonzero(
            np.bincount(read.images, iscrowd, len(read)) * (np.bincount(read.images, ~iscrowd, len(read)) == 0)
        )
        names = [read.file_names[i].decode() for i in only.tolist()]
        fix = "They train as background; in evaluation, detections inside of the crowds do not count."
        examination.report("note", "images whose objects are all crowds", names, fix, of=len(read))


def _take_inventory(facts: SplitFacts, examination: Examination) -> None:
    """Adds what a split finds, uses and leaves out: images, objects and image files."""
    whole, read, chosen, names = facts.of_json.annotations, facts.read, facts.chosen, facts.names
    failed_places = examination.failed(len(read))
    missing, failed = np.zeros(len(whole), bool), np.zeros(len(whole), bool)
    places = np.flatnonzero(chosen)
    named = [name.decode() for name in read.file_names.tolist()]
    missing[places] = [os.path.join(facts.folder, name) in examination.missing for name in named]
    failed[places[sorted(failed_places)]] = True
    part = "in the part for training" if facts.of_json.options.part == "val" else "in the part for validation"
    unused = [(part, ~facts.in_part), ("beyond data.limit", ~chosen), ("without a file", missing)]
    unused.append(("with an invalid file", failed))
    all_names = [name.decode() for name in whole.file_names.tolist()]
    examination.inventories.append(_inventory("image", all_names, whole.invalid_images.items(), unused))
    if whole.labelled:
        objects = chosen[whole.images]
        flat = np.zeros(len(objects), bool)
        flat[objects] = ~read.have_area()
        of_images = [(f"of images {reason}", images[whole.images]) for reason, images in unused]
        own = [*of_images, ("crowds", whole.iscrowd), ("without area inside their image", flat)]
        examination.inventories.append(_inventory("object", whole.ids.tolist(), whole.invalid_objects.items(), own))
    used = [name for i, name in enumerate(names) if i not in failed_places]
    others = without_named(facts.there, [(facts.folder, used)])
    inventory = Inventory("image file", len(facts.there) - len(others))
    inventory.leave_out("of images that are not used", sorted(others - facts.of_others))
    inventory.leave_out("only in the json of another split", sorted(facts.of_others - set(facts.unlisted)))
    inventory.leave_out("in no json", facts.unlisted)
    examination.inventories.append(inventory)


def _inventory(
    noun: str,
    names: Sequence[object],
    invalid: Iterable[tuple[str, Sequence[str]]],
    unused: Sequence[tuple[str, np.ndarray]],
) -> Inventory:
    """unused: reasons, each with what it leaves out, (N,) bool; the first reason that applies counts."""
    inventory, used = Inventory(noun), np.ones(len(names), bool)
    for reason, left_out in invalid:
        inventory.leave_out(reason, left_out)
    for reason, chosen in unused:
        inventory.leave_out(reason, [names[i] for i in np.flatnonzero(chosen & used).tolist()])
        used &= ~chosen
    inventory.used = int(used.sum())
    return inventory


def _readings(facts: SplitFacts) -> Iterator[Readings]:
    """Samples of some images with objects, with the boxes on the upright and on the stored image."""
    read, unclear = facts.read, facts.unclear
    with_objects = unclear[np.diff(read.first)[unclear] > 0]
    for i in with_objects[evenly_spaced(len(with_objects), _DRAWN)].tolist():
        rows = slice(int(read.first[i]), int(read.first[i + 1]))
        boxes, labels = torch.from_numpy(read.boxes[rows]), torch.from_numpy(read.labels[rows].astype(np.int64))
        samples: dict[str, Sample] = {}
        with suppress(DataError):  # reported when the image is opened
            for grid in ("upright", "stored"):
                path, channels = facts.folder / facts.names[i], facts.of_json.options.channels
                pixels = read_image(path, channels, upright=grid == "upright")
                step = -(-max(pixels.shape[:2]) // _DRAWN_SIDE)
                pixels = pixels[::step, ::step].copy()
                targets: Targets = {"image_id": facts.names[i], "size": pixels.shape[:2], "labels": labels}
                targets["boxes"] = boxes / step
                samples[grid] = {"image": torch.from_numpy(pixels).permute(2, 0, 1), "targets": targets}
            yield facts.names[i], samples
