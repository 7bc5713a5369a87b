"""Reads COCO data sets, to make new splits, merge classes, or convert them to the common layout."""

from pathlib import Path
from typing import Any

from densevit.data.datasets.coco_annotations import annotations_of
from densevit.data.datasets.coco_json import classes_of, parse_json
from densevit.data.datasets.coco_layouts import SPLITS, SplitFiles, located_split, single_json
from densevit.data.datasets.dataset_validation import STRICT_SCAN
from densevit.errors import DataError, UnreadableFileError
from densevit_workbench.interchange.annotated import Annotated, AnnotatedImage, AnnotatedObject, shown_size
from densevit_workbench.interchange.faults import Faults

_OWN = ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area")


def read_coco(source: Path, faults: Faults) -> Annotated:
    """Reads a folder in a layout of the data set `coco`, or one json with its images below its folder."""
    found = _split_files(source)
    if not found:
        raise DataError(
            f"{source}: no json in COCO's format is found, such as train.json or annotations/instances_train.json."
        )
    classes: dict[int, str] = {}
    splits = {}
    for split, files in found.items():
        file = files.file
        document = parse_json(file, keep_segmentations=True)
        STRICT_SCAN.read(annotations_of(file, document, masks=False))  # raises for an invalid document
        own = {one.file_id: one.name for one in classes_of(file, document)}
        for file_id, name in own.items():
            if classes.setdefault(file_id, name) != name:
                raise DataError(f"{file}: category {file_id} is {name!r}, but in another split {classes[file_id]!r}.")
        root = source.parent if source.is_file() else source
        folders = [*files.folders, files.image_folder([image["file_name"] for image in document["images"]])]
        splits[split] = _images(document, own, list(dict.fromkeys(folders)), file, root, faults)
    faults.check(source, splits)
    ids = sorted(classes)
    return Annotated(tuple(classes[file_id] for file_id in ids), splits, tuple(ids))


def _split_files(source: Path) -> dict[str, SplitFiles]:
    """Returns the json of each split; "" for a folder with a single json."""
    if source.is_file():
        return {"": SplitFiles(source, (source.parent,), source.parent)}
    found = {split: files for split in SPLITS if (files := located_split(source, split)) is not None}
    single = None if found else single_json(source)
    return found if single is None else {"": single}


def _images(
    document: dict[str, Any], names: dict[int, str], folders: list[Path], file: Path, root: Path, faults: Faults
) -> list[AnnotatedImage]:
    objects: dict[Any, list[AnnotatedObject]] = {}
    for record in document.get("annotations") or ():
        x, y, w, h = map(float, record["bbox"])
        more = {key: value for key, value in record.items() if key not in _OWN}
        one = AnnotatedObject(
            names[record["category_id"]],
            (x, y, w, h),
            record.get("segmentation"),
            bool(record.get("iscrowd", 0)),
            record.get("area"),
            more,
        )
        objects.setdefault(record["image_id"], []).append(one)
    images = []
    for image in document["images"]:
        with faults.collecting():
            images.append(_image(image, tuple(objects.get(image["id"], ())), folders, file, root, faults))
    return images


def _image(
    image: dict[str, Any],
    objects: tuple[AnnotatedObject, ...],
    folders: list[Path],
    file: Path,
    root: Path,
    faults: Faults,
) -> AnnotatedImage:
    candidates = (folder / image["file_name"] for folder in folders)
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        looked = ", ".join(str(folder) for folder in folders)
        raise UnreadableFileError(f"{file}: the image {image['file_name']} is not found. Looked in {looked}.")
    faults.check_place(f"{file}: image {image['id']!r}", path, root)
    shown = shown_size(path)  # raises for a file that cannot be read
    height, width = image.get("height") or 0, image.get("width") or 0
    if not height or not width:
        height, width = shown
    return AnnotatedImage(path, height, width, objects)
