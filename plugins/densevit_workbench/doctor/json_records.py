"""Counts the invalid records of a COCO json, and reads the split without them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from densevit import registry
from densevit.config import DataSection
from densevit.data.dataset_builder import unchecked_split
from densevit.data.datasets.coco_annotations import Annotations, annotations_of
from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.coco_json import Images, classes_of, is_identifier, parse_json, section_of
from densevit.data.datasets.coco_layouts import NamedFiles
from densevit.data.datasets.coco_panoptic import CocoPanoptic, panoptic_json
from densevit.data.datasets.coco_records import (
    INVALID_SEGMENTATIONS,
    MISSING_MASKS,
    CocoObjects,
    lacks_mask,
    missing_masks,
)
from densevit.data.datasets.coco_segmentations import pack, wrong_codes
from densevit.data.datasets.panoptic_annotations import panoptic_classes_of, segments_of
from densevit.data.datasets.split_folders import DIVIDED, root_folder
from densevit.errors import DataError
from densevit.interfaces import Dataset
from densevit.interfaces.datasets import WrappedDataset
from densevit_workbench.doctor.findings import Findings

Skipped = dict[str, list[str]]  # names by broken rule


@dataclass
class InvalidRecords:
    """Names of invalid images and objects of a json, by broken rule. annotations: the valid annotations; None if all
    records are valid."""

    annotations: Annotations | None = None
    images: Skipped = field(default_factory=dict)
    objects: Skipped = field(default_factory=dict)


def unwrapped(dataset: Dataset) -> Dataset:
    """The data set whose files are read: of one in which only some classes are labelled, that of all classes."""
    return unwrapped(dataset.dataset) if isinstance(dataset, WrappedDataset) else dataset


def built_without_invalid_records(
    section: DataSection, split: str, findings: Findings
) -> tuple[Dataset | None, InvalidRecords]:
    """Builds a split. Counts invalid records of its json, and reads a copy without them. Returns None, with a finding,
    if the split cannot be read for another reason."""
    invalid = InvalidRecords()
    try:
        return unchecked_split(section, split), invalid
    except DataError as error:
        kind = registry.load("datasets", section.name)
        try:
            if issubclass(kind, Coco) and error.rule:
                return _without_invalid_records(kind, section, split, invalid, findings), invalid
            if kind is CocoPanoptic:
                return _without_invalid_segments(section, split, findings), invalid
        except DataError as other:
            error = other
        findings.report("error", "the split cannot be read", [str(error)])
        return None, invalid


def _without_invalid_records(
    kind: type[Coco], section: DataSection, split: str, invalid: InvalidRecords, findings: Findings
) -> Dataset:
    options: dict[str, Any] = section.options
    named = NamedFiles(options.get("annotations"), options.get("images"))
    share, outside = options.get("val_share"), options.get("outside_paths", False)
    root = None if options.get("root") is None else root_folder(options["root"], file_allowed=True)
    origin = options.get("voc_origin")
    files, is_divided = kind.find(root, split, named, share, outside, "skip", section.given_channels, origin)
    document = parse_json(files.file, keep_segmentations=options.get("masks", False))
    masks = (options.get("masks", False), options.get("boxes_as_masks"))
    images = examine_records(files.file, document, *masks, invalid, findings)
    invalid.annotations = annotations_of(files.file, document, *masks)
    folder = str(files.image_folder(images.names).absolute())
    changed = {"name": "coco", "images": folder, "val_share": share if is_divided else None}
    return _built_from(
        document,
        files.file,
        section,
        split,
        options | changed,
        lambda copy: str(copy) if is_divided else dict.fromkeys((*DIVIDED, split), str(copy)),
    )


def _built_from(
    document: Mapping[str, Any],
    file: Path,
    section: DataSection,
    split: str,
    options: dict[str, Any],
    annotations: Callable[[Path], Any],
) -> Dataset:
    """Builds a split from the changed document of its json, with these options. annotations: returns the option
    `annotations` from the path of the copy, which is named {split}.json."""
    with TemporaryDirectory() as temporary:
        copy = Path(temporary) / f"{split}.json"
        copy.write_text(json.dumps(document))
        try:
            dataset = unchecked_split(section.model_copy(update=options | {"annotations": annotations(copy)}), split)
        except DataError as error:
            raise DataError(str(error).replace(str(copy), str(file)), error.rule) from None
    source = unwrapped(dataset)
    assert isinstance(source, Coco | CocoPanoptic)
    source.file, source.division = file, source.division.replace(str(copy), str(file))
    dataset.division = source.division
    return dataset


def _without_invalid_segments(section: DataSection, split: str, findings: Findings) -> Dataset:
    """Builds the split without invalid images and annotations of its panoptic json, and counts these."""
    file = panoptic_json(root_folder(section.options.get("root")), split, section.options)
    document = parse_json(file, keep_segmentations=True)
    images, invalid, seen = Images(file), InvalidRecords(), set()
    entries = _valid(section_of(file, document, "images"), images.add, _image_name, invalid.images, findings)
    labels = {category.file_id: i for i, category in enumerate(panoptic_classes_of(file, document))}

    def add(record: Mapping[str, Any], position: int) -> None:
        segments_of(file, record, position, images, labels)
        seen.add(record["image_id"])

    records = section_of(file, document, "annotations")
    document["annotations"] = _valid(records, add, _object_name, invalid.objects, findings)
    document["images"] = [image for image in entries if image["id"] in seen]
    by_split = "{split}" in (section.options.get("annotations") or "{split}")
    return _built_from(
        document,
        file,
        section,
        split,
        section.options,
        lambda copy: str(copy.with_name("{split}.json") if by_split else copy),
    )


def examine_records(
    file: Path,
    document: dict[str, Any],
    masks: bool,
    boxes_as_masks: bool | None,
    invalid: InvalidRecords,
    findings: Findings,
) -> Images:
    """Parses each image and each annotation as the data set does. Counts invalid records and removes them from the
    document. Returns the images."""
    images = Images(file)
    document["images"] = _valid(section_of(file, document, "images"), images.add, _image_name, invalid.images, findings)
    try:
        labels: Mapping[Any, int] = {category.file_id: i for i, category in enumerate(classes_of(file, document))}
    except DataError:  # raised for the split
        ids = [category.get("id") for category in section_of(file, document, "categories")]
        labels = {category_id: 0 for category_id in ids if is_identifier(category_id)}
    objects = CocoObjects(file, images, labels, masks, boxes_as_masks)
    records = section_of(file, document, "annotations")
    if masks and not boxes_as_masks:
        if boxes_as_masks is None and (error := missing_masks(images, records)):
            findings.report_errors([error], len(records))
            invalid.objects[MISSING_MASKS] = [str(record.get("id")) for record in records if lacks_mask(record)]
        records = [record for record in records if not lacks_mask(record)]
    valid = _valid(records, objects.add, _object_name, invalid.objects, findings)
    if objects.segmentations:
        reasons = wrong_codes(pack(objects.segmentations))
        errors = [objects.wrong_segmentation(objects.ids[i], objects.rows[i], text) for i, text in reasons.items()]
        findings.report_errors(errors, len(records))
        invalid.objects.setdefault(INVALID_SEGMENTATIONS, []).extend(str(objects.ids[i]) for i in reasons)
        valid = [record for i, record in enumerate(valid) if i not in reasons]
    if document.get("annotations") is not None:
        document["annotations"] = valid
    return images


def _valid(
    records: list[dict[str, Any]],
    add: Callable[[Mapping[str, Any], int], None],
    name_of: Callable[[Mapping[str, Any], int], str],
    skipped: Skipped,
    findings: Findings,
) -> list[dict[str, Any]]:
    """The records that `add` accepts; reports and counts all other records."""
    valid, errors = [], []
    for position, record in enumerate(records):
        try:
            add(record, position)
            valid.append(record)
        except DataError as error:
            error.rule = error.rule or "invalid entries"
            errors.append(error)
            skipped.setdefault(error.rule, []).append(name_of(record, position))
    findings.report_errors(errors, len(records))
    return valid


def _image_name(record: Mapping[str, Any], position: int) -> str:
    return str(record.get("file_name"))


def _object_name(record: Mapping[str, Any], position: int) -> str:
    return str(record.get("id", f"at position {position}"))
