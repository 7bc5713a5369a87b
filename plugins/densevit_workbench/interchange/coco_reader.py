"""Reads COCO data sets, for new splits, merged classes or the common layout."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from densevit.channels import Channels
from densevit.data.datasets.coco_annotations import annotations_of
from densevit.data.datasets.coco_json import classes_of, parse_json
from densevit.data.datasets.coco_layouts import SPLITS, SplitFiles, files_in_layout, single_json
from densevit.data.datasets.image_files import existing_files
from densevit.data.datasets.rotated_boxes import rotation_of
from densevit.data.io.folders import files_below
from densevit.errors import DataError, UnreadableFileError
from densevit.grouping import grouped
from densevit.registry.plugin_options import shown
from densevit_workbench.interchange.annotated import (
    TO_CONVERT,
    Annotated,
    AnnotatedImage,
    AnnotatedObject,
    box_in_image,
    box_limits,
    file_inventory,
    header_of,
    image_inventory,
    is_unread,
    object_count,
    object_inventory,
    rotated_object,
)
from densevit_workbench.interchange.faults import Faults

_OTHER_TASKS = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")  # of COCO's own jsons
_FIELDS = ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area")


def read_coco(source: Path, faults: Faults, channels: Channels | None = None) -> Annotated:
    """Reads a folder in a layout of the data set `coco`, or one json with its images below its folder."""
    split_files = _split_files(source)
    if not split_files:
        raise DataError(
            f"{source}: no json in COCO's format is found, such as train.json or annotations/instances_train.json."
        )
    root = source.parent if source.is_file() else source
    classes: dict[int, str] = {}
    splits: dict[str, list[AnnotatedImage]] = {}
    wanted: list[Path] = []
    skipped: list[str] = []  # file names of skipped images, one per annotation
    for split, files in split_files.items():
        file = files.file
        document = parse_json(file, keep_segmentations=True)
        annotations_of(file, document, masks=False)  # raises for an invalid document
        categories = {category.file_id: category.name for category in classes_of(file, document)}
        for file_id, name in categories.items():
            if classes.setdefault(file_id, name) != name:
                raise DataError(f"{file}: category {file_id} is {name!r}, but in another split {classes[file_id]!r}.")
        file_names = [image["file_name"] for image in document["images"]]
        folder = files.image_folder(file_names)
        paths = [folder / name for name in existing_files(folder, file_names, file, outside_paths=True)[0]]
        splits[split] = []
        by_image = grouped((record["image_id"], record) for record in document.get("annotations") or ())
        for image, path in zip(document["images"], paths, strict=True):
            records = by_image.get(image["id"], [])
            wanted.append(path)
            skipped += [image["file_name"]] * len(records)
            with faults.collecting():
                faults.check_place(f"{file}: image {image['id']!r}", path, root)
                splits[split].append(_image(image, path, records, categories, file, faults, channels))
                del skipped[len(skipped) - len(records) :]
    faults.check(source, splits)
    files_of_splits = [files.file for files in split_files.values()]
    is_image, unused = lambda path: "panoptic" not in path.parent.name, "in no json of a split"
    if source.is_file():  # its folder may contain unrelated files
        inventories = (
            image_inventory(folder, wanted, splits, unused, channels, is_image),
            file_inventory("json file", (), files_of_splits, root, str),
        )
    else:
        jsons = [file for file in files_below(root, (".json",)) if not file.name.startswith(_OTHER_TASKS)]
        inventories = (
            image_inventory(root, wanted, splits, unused, channels, is_image),
            file_inventory("json file", jsons, files_of_splits, root, lambda file: "not named as the json of a split"),
        )
    objects = object_inventory("annotation", object_count(splits), skipped, root, faults)
    ids = sorted(classes)
    names = tuple(classes[file_id] for file_id in ids)
    return Annotated(names, splits, tuple(ids), inventories=(*inventories, objects))


def _split_files(source: Path) -> dict[str, SplitFiles]:
    """The json of each split; the split "" for a single json."""
    if source.is_file():
        return {"": SplitFiles(source, (source.parent,), source.parent)}
    split_files = {split: files for split in SPLITS if (files := files_in_layout(source, split)) is not None}
    single = None if split_files else single_json(source)
    return split_files if single is None else {"": single}


def _image(
    image: Mapping[str, Any],
    path: Path,
    records: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    file: Path,
    faults: Faults,
    channels: Channels | None,
) -> AnnotatedImage:
    if not path.is_file():
        raise UnreadableFileError(f"{file}: the image {image['file_name']} is not found. Looked for {path}.")
    if is_unread(path):
        raise UnreadableFileError(f"{file}: the image {path} is {TO_CONVERT}.")
    header = header_of(path, channels)  # raises for a file that cannot be read
    height, width = image.get("height") or 0, image.get("width") or 0
    if not height or not width:
        height, width = header.upright_size
    limits = box_limits(header, (height, width))
    objects = faults.map(partial(_object, limits=limits, names=names, file=file), records)
    negatives, not_exhaustive = (
        None if (ids := image.get(key)) is None else tuple(names[file_id] for file_id in ids)
        for key in ("neg_category_ids", "not_exhaustive_category_ids")
    )
    if not_exhaustive is not None:
        negatives = negatives or ()
    return AnnotatedImage(path, height, width, tuple(objects), negatives=negatives, not_exhaustive=not_exhaustive or ())


def _object(
    record: Mapping[str, Any], limits: tuple[int, int], names: Mapping[int, str], file: Path
) -> AnnotatedObject:
    name, where = names[record["category_id"]], f"{file}, annotation {shown(record.get('id'))}"
    x, y, w, h = map(float, record["bbox"])
    more = {key: value for key, value in record.items() if key not in _FIELDS}
    crowd, degrees = bool(record.get("iscrowd", 0)), rotation_of(record)
    if degrees and w > 0 and h > 0:
        return rotated_object(name, (x, y, w, h), degrees, limits, where, crowd, more)
    return AnnotatedObject(
        name,
        box_in_image((x, y, w, h), limits, where),
        record.get("segmentation"),
        crowd,
        record.get("area"),
        more,
    )
