"""Reports unusual but valid annotations of a COCO json, and counts used and unused images and objects."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from densevit.channels import Channels
from densevit.config import DataSection
from densevit.data.datasets.coco_annotations import Annotations, crowd_note, read_annotations
from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.coco_json import parse_json, section_of
from densevit.data.datasets.coco_layouts import SPLITS, NamedFiles, SplitFiles, files_of
from densevit.data.datasets.image_files import first_files, image_suffixes
from densevit.data.datasets.split_folders import root_folder
from densevit.data.io.file_lookup import find_by_base_name, find_file
from densevit.data.io.images import image_header, read_image
from densevit.errors import DataError, counted, listed
from densevit.interfaces import Sample, Targets
from densevit_workbench.doctor.close_boxes import close_pairs, report_pairs
from densevit_workbench.doctor.findings import EXAMPLES, Findings, Severity, evenly_spaced
from densevit_workbench.doctor.json_records import InvalidRecords
from densevit_workbench.doctor.mask_examination import examine_masks, with_masks
from densevit_workbench.interchange.inventory import Inventory

Readings = tuple[str, Mapping[str, Sample]]

_MARGIN = 1.0  # pixels; boxes farther outside are not rounding errors
_DRAWN, _DRAWN_SIDE = 6, 1000  # images to draw in both readings, and their longer side in pixels


def examine_coco(
    dataset: Coco,
    section: DataSection,
    split: str,
    invalid: InvalidRecords,
    opened: Sequence[int],
    failed: set[int],
    findings: Findings,
) -> tuple[list[Inventory], list[Readings]]:
    """Adds findings about a split in COCO's format. Returns its inventories, and images with ambiguous boxes, one
    sample per reading.

    opened: indices of images with checked files. failed: the indices among them with invalid files.
    """
    annotations = invalid.annotations or read_annotations(dataset.file, dataset.masks, dataset.boxes_as_masks)
    unclear = [i for i in opened if i not in failed and _is_unclear(dataset, i)]
    _examine_annotations(annotations, findings, ambiguous=bool(unclear))
    examine_masks(annotations if annotations.segmentations else with_masks(dataset), findings)
    _examine_reading(dataset, unclear, len(opened), findings)
    _examine_crowds(annotations, section.options.get("crowds"), findings)
    there = _image_files({os.path.dirname(dataset.path(i)) for i in range(len(dataset))}, dataset.channels)
    unnamed = _without_named(there, [(dataset.folder, annotations.names())])
    unlisted = sorted(_without_named(unnamed, map(_named_files, _other_splits(section, split, dataset.file))))
    findings.report("note", "image files that no json names", unlisted, _unlisted_note(unlisted))
    missing = set(dataset.missing)
    inventories = _inventories(dataset, annotations, section, split, invalid, missing, failed - missing)
    used = [dataset.path(i) for i in range(len(dataset)) if i not in failed]
    unused = _without_named(there, [(Path(), used)])
    files = Inventory("image file", len(there) - len(unused))
    files.skip("of images that are not used", sorted(unused - unnamed))
    files.skip("only in the json of another split", sorted(unnamed - set(unlisted)))
    files.skip("in no json", unlisted)
    return [*inventories, files], [] if dataset.boxes is not None else list(_readings(dataset, unclear))


def _is_unclear(dataset: Coco, index: int) -> bool:
    """Whether EXIF rotates an image by 90 degrees, while the json states the size before rotation."""
    with suppress(DataError):
        header = image_header(dataset.path(index), dataset.channels)
        return header.size != header.upright_size and tuple(dataset.json_sizes[index].tolist()) == header.size
    return False


def _examine_annotations(read: Annotations, findings: Findings, ambiguous: bool = False) -> None:
    """Reports images with several entries, and boxes that are degenerate, outside of their image, or duplicates.

    Crowds are left out: they are neither trained on nor counted. ambiguous: whether boxes may refer to the upright or
    the stored image (see `coco_orientation`); boxes outside are then outside of both.
    """
    names, counts = np.unique(read.file_names, return_counts=True)
    twice = [f"{names[i].decode()}: {counts[i]} entries" for i in np.flatnonzero(counts > 1)]
    findings.report(
        "note",
        "rotated boxes (attributes.rotation)",
        [f"annotation {identifier}" for identifier in read.ids[read.rotated]],
        "The boxes around them are used, and as masks the rotated rectangles.",
        of=len(read.boxes),
    )
    findings.report(
        "warning",
        "image files with several entries",
        twice,
        "Merge their annotations into one entry: now each entry trains the objects of the others as background.",
        of=len(read),
    )
    if not len(read.boxes):
        return
    rows, limits = read.images, read.limits()
    if ambiguous:
        limits = np.tile(limits.max(axis=1, keepdims=True), 2)
    low, high = read.boxes[:, :2], read.boxes[:, 2:]
    flat = (high <= low).any(axis=1) & ~read.iscrowd
    away = ~flat & ~read.iscrowd & ((np.clip(high, 0, limits) <= np.clip(low, 0, limits)).any(axis=1))
    partly = ~flat & ~away & ~read.iscrowd & ((low < -_MARGIN) | (high > limits + _MARGIN)).any(axis=1)

    def report(title: str, fix: str, indices: np.ndarray, severity: Severity = "warning") -> None:
        def example(i: int) -> str:
            size = "" if np.isinf(limits[i]).any() else f" of {limits[i, 0]:.0f} x {limits[i, 1]:.0f}"
            box = ", ".join(f"{number:g}" for number in (*low[i], *(high[i] - low[i])))
            return f"annotation {read.ids[i]} of image {read.file_names[rows[i]].decode()}{size}: [{box}]"

        examples = [example(i) for i in indices[:EXAMPLES].tolist()]
        findings.report(severity, title, examples, fix, len(indices), len(rows))

    out = "They are left out in training, and missed in evaluation."
    report("boxes without area", f"{out} Correct or remove them.", np.flatnonzero(flat))
    report(
        "boxes outside of their image",
        f"{out} Were images resized, or width and height exchanged?",
        np.flatnonzero(away),
    )
    report(
        "boxes partly outside of their image",
        "They are clipped in training. Were images resized? Or are boxes x1, y1, x2, y2 instead of x, y, w, h?",
        np.flatnonzero(partly),
    )
    table = np.column_stack([read.iscrowd, rows, read.labels, read.boxes])
    order = np.lexsort(table.T[::-1])
    doubled = np.sort(order[1:][(table[order[1:]] == table[order[:-1]]).all(axis=1)])
    doubled = doubled[~read.iscrowd[doubled]]
    report(
        "duplicate boxes (same image, class and box)",
        "Remove all but one: each is an object for the loss, and in evaluation all but one are missed.",
        doubled,
    )
    classes = [c.name for c in read.classes]
    usable = np.flatnonzero(~read.iscrowd)
    pairs = []
    for first, second in usable[close_pairs(rows[usable], read.boxes[usable])].tolist():
        if (table[first] != table[second]).any():  # else reported as duplicates
            labels = [f"{read.ids[i]} ({classes[read.labels[i]]})" for i in (first, second)]
            text = f"annotations {' and '.join(labels)} of image {read.file_names[rows[first]].decode()}"
            pairs.append((text, bool(read.labels[first] == read.labels[second])))
    report_pairs(findings, pairs, len(rows))
    if len(rows) > 1 and (high <= 1 + 1e-6).all():
        report(
            "boxes within 0 ... 1, as if relative to the image",
            "Multiply them by the images' width and height: COCO's boxes are in pixels.",
            np.arange(len(rows)),
            "error",
        )


def _examine_reading(dataset: Coco, unclear: Sequence[int], opened: int, findings: Findings) -> None:
    """Reports photos whose boxes may refer to the upright or the stored image."""
    fix = f"data.boxes={dataset.boxes} is set."
    if dataset.boxes is None:
        fix = (
            "The json has the size of the stored pixels: the boxes are read on these. Label Studio writes this size "
            "for boxes on the upright image: then set data.boxes=upright. data.boxes=stored confirms this reading."
        )
    title = "images whose boxes may be on the upright image or on the stored pixels (EXIF)"
    names = [os.path.relpath(dataset.path(i), dataset.folder) for i in unclear]
    findings.report("warning" if dataset.boxes is None else "note", title, names, fix, of=opened)


def _examine_crowds(read: Annotations, crowds: str | None, findings: Findings) -> None:
    """Reports objects with `iscrowd` 1, and images without other objects. crowds: the option `data.crowds`."""
    iscrowd = read.iscrowd
    indices = np.flatnonzero(iscrowd)
    note = crowd_note(iscrowd)
    fix = "They are used as objects (data.crowds=objects)."
    if crowds != "objects":
        fix = note or "They are not trained on, and not counted in AP (COCO's rule)."
    examples = [
        f"annotation {read.ids[i]} of image {read.file_names[read.images[i]].decode()}" for i in indices[:EXAMPLES]
    ]
    severity: Severity = "warning" if note and crowds is None else "note"
    findings.report(severity, "objects with iscrowd 1", examples, fix, len(indices), len(iscrowd))
    if crowds != "objects":
        only = np.flatnonzero(
            np.bincount(read.images, iscrowd, len(read)) * (np.bincount(read.images, ~iscrowd, len(read)) == 0)
        )
        names = [read.file_names[i].decode() for i in only.tolist()]
        fix = "They train as background; in evaluation, detections inside of the crowds do not count."
        findings.report("note", "images whose objects are all crowds", names, fix, of=len(read))


def _inventories(
    dataset: Coco,
    annotations: Annotations,
    section: DataSection,
    split: str,
    invalid: InvalidRecords,
    missing: set[int],
    failed: set[int],
) -> Iterator[Inventory]:
    """Yields the inventories of a split's images and objects."""
    chosen = np.isin(annotations.image_ids, dataset.annotations.image_ids)
    places = np.flatnonzero(chosen)
    without_file, with_invalid_file = np.zeros(len(annotations), bool), np.zeros(len(annotations), bool)
    without_file[places[sorted(missing)]] = with_invalid_file[places[sorted(failed)]] = True
    reason = "beyond data.limit"
    if dataset.division:
        reason = f"in the part for {'validation' if split == 'train' else 'training'}"
        reason += " or beyond data.limit" if section.options.get("limit") else ""
    unused = [(reason, ~chosen), ("without a file", without_file), ("with an invalid file", with_invalid_file)]
    yield _inventory("image", annotations.names(), invalid.images.items(), unused)
    if annotations.labelled:
        flat = np.zeros(len(annotations.ids), bool)
        flat[chosen[annotations.images]] = ~dataset.annotations.have_area()
        iscrowd = annotations.iscrowd & (section.options.get("crowds") != "objects")
        image_reasons = [(f"of images {text}", images[annotations.images]) for text, images in unused]
        reasons = [*image_reasons, ("crowds", iscrowd), ("without area inside their image", flat)]
        yield _inventory("object", annotations.ids.tolist(), invalid.objects.items(), reasons)


def _inventory(
    noun: str,
    names: Sequence[object],
    invalid: Iterable[tuple[str, Sequence[str]]],
    unused: Sequence[tuple[str, np.ndarray]],
) -> Inventory:
    """unused: reasons with masks (N,) of what they leave out; the first applicable reason counts."""
    inventory, used = Inventory(noun), np.ones(len(names), bool)
    for reason, skipped in invalid:
        inventory.skip(reason, skipped)
    for reason, chosen in unused:
        inventory.skip(reason, [names[i] for i in np.flatnonzero(chosen & used).tolist()])
        used &= ~chosen
    inventory.used = int(used.sum())
    return inventory


def _readings(dataset: Coco, unclear: Sequence[int]) -> Iterator[Readings]:
    """Samples of some images with objects, for boxes on the upright and on the stored image."""
    with_objects = [i for i in unclear if len(dataset.objects(i)["labels"])]
    for position in evenly_spaced(len(with_objects), _DRAWN).tolist():
        i, samples = with_objects[position], {}
        name, objects = os.path.relpath(dataset.path(i), dataset.folder), dataset.objects(i)
        with suppress(DataError):  # reported when the image is opened
            for grid in ("upright", "stored"):
                pixels = read_image(dataset.path(i), dataset.channels, upright=grid == "upright")
                step = -(-max(pixels.shape[:2]) // _DRAWN_SIDE)
                pixels = pixels[::step, ::step].copy()
                targets: Targets = {"image_id": name, "size": pixels.shape[:2], "labels": objects["labels"]}
                targets["boxes"] = objects["boxes"] / step
                samples[grid] = Sample(image=torch.from_numpy(pixels).permute(2, 0, 1), targets=targets)
            yield name, samples


def _unlisted_note(files: Sequence[str]) -> str:
    """The fix for image files that no json names; "" without such files."""
    if not files:
        return ""
    return (
        f"{counted(len(files), 'image file')} next to images {'is' if len(files) == 1 else 'are'} in no json of the "
        f"data set, and not used: {listed(map(os.path.basename, files), 3)}. Images without objects need an entry of "
        "`images` too."
    )


def _image_files(folders: Iterable[str], channels: Channels) -> set[str]:
    """Lists image files with these channels in folders, not in subfolders."""
    suffixes = image_suffixes(channels)
    files = (
        entry.path
        for folder in folders
        if os.path.isdir(folder)
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(suffixes) and not entry.name.startswith(".")
    )
    return {*first_files(files, channels)}


def _without_named(files: set[str], jsons: Iterable[tuple[Path, Sequence[str]]]) -> set[str]:
    """Returns the files that no json names.

    jsons: the image folder and image names of each json, read lazily until no file remains.
    """
    for folder, names in jsons if files else ():
        files = files - {os.path.normpath(os.path.join(folder, name)) for name in names}
        if not files:
            break
        names_on_disk = (
            find_by_base_name(folder, name) or find_file(folder, name, outside_paths=True) for name in names
        )
        files -= {os.path.normpath(os.path.join(folder, name)) for name in names_on_disk if name is not None}
    return files


def _other_splits(section: DataSection, split: str, file: Path) -> Iterator[SplitFiles]:
    """Yields the other jsons of a data set. file: the json of this split."""
    root = None if section.options.get("root") is None else root_folder(section.options["root"], file_allowed=True)
    named = NamedFiles(section.options.get("annotations"), section.options.get("images"))
    for other in SPLITS:
        with suppress(DataError):  # a split that is not there
            files = None if other == split else files_of(root, other, named)
            if files is not None and files.file != file:
                yield files


def _named_files(files: SplitFiles) -> tuple[Path, list[str]]:
    """Returns the folder of a json's images and their names; none for a json that cannot be read."""
    try:
        records = section_of(files.file, parse_json(files.file, keep_segmentations=False), "images")
        names = [name for record in records if isinstance(name := record.get("file_name"), str)]
        return files.image_folder(names), names
    except DataError:
        return files.file.parent, []
