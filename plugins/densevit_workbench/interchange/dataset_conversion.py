"""Converts a data set of another format to COCO's, in the layout that the data set `coco` reads."""

import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from densevit.atomic_io import atomic_folder
from densevit.channels import RGB, Channels
from densevit.data.io.channel_files import channel_paths
from densevit.errors import ConfigError, DataError, did_you_mean
from densevit.paths import user_path
from densevit_workbench.interchange.annotated import Annotated, AnnotatedImage, AnnotatedObject, shown_place
from densevit_workbench.interchange.coco_reader import read_coco
from densevit_workbench.interchange.conversion_paths import check_paths
from densevit_workbench.interchange.faults import Faults
from densevit_workbench.interchange.foreign_exports import check_export
from densevit_workbench.interchange.label_studio import read_label_studio
from densevit_workbench.interchange.labelme import read_labelme
from densevit_workbench.interchange.open_images import read_open_images
from densevit_workbench.interchange.panoptic_reader import read_panoptic
from densevit_workbench.interchange.splitting import merge_classes, split_again
from densevit_workbench.interchange.voc import read_voc
from densevit_workbench.interchange.yolo import read_yolo

READERS: dict[str, Callable[..., Annotated]] = {
    "yolo": read_yolo,
    "voc": read_voc,
    "labelme": read_labelme,
    "coco": read_coco,
    "coco_panoptic": read_panoptic,
    "label_studio": read_label_studio,
    "open_images": read_open_images,
}
DEFAULT_SPLITS = {"train": 0.8, "val": 0.2}  # if the source lacks train or val

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


def convert_dataset(
    format: str,
    source: str | Path,
    out: str | Path,
    splits: Mapping[str, float] | None = None,
    merge: Mapping[str, str] | None = None,
    seed: int = 0,
    track: Track = lambda items, title, total: items,
    skip_unreadable: bool = False,
    outside_paths: bool = False,
    strict: bool = False,
    origin: Literal[0, 1] | None = None,
    channels: Channels | None = None,
) -> Annotated:
    """Converts a data set to COCO's format, for `data.root`, Datumaro and CVAT.

    Writes out/annotations/instances_SPLIT.json, and the images to out/images/SPLIT.

    format: a key of `READERS`, such as "yolo". out: a new folder, which appears when it is complete. Images are hard
    links to the source's files, or copies on another file system. splits: shares of new splits of all images, such as
    {"train": 0.8, "val": 0.2}; None: the splits of the source, or these shares if it lacks train or val. merge: the new
    name of each renamed class. seed: the seed of the new splits. skip_unreadable: leaves out missing and unreadable
    images, with a warning that names them. outside_paths: whether entries may name images outside of the source.
    strict: whether an invalid object, such as a box without area, is an error; otherwise it is left out and counted.
    origin: the coordinate of the first pixel in "voc"; None: that of the tool that wrote a file, else 0 if a box begins
    there, else 1. channels: the images' channels; None: RGB, or any channels in one file.
    The result's `inventories` count found, used and unused files and objects; warnings report unused ones. Raises
    DataError with all invalid files, ConfigError for invalid arguments.

    Example:
        >>> densevit.convert_dataset("yolo", "~/yolo_set", "converted").classes
        ('car', 'truck')
    """
    if format not in READERS:
        raise ConfigError(f"format: there is no {format!r}.{did_you_mean(format, READERS)}")
    if origin is not None and format != "voc":
        raise ConfigError(f"origin: only coordinates of voc may count from 0 or 1; the format is {format}.")
    source, out = user_path(source), user_path(out)
    check_paths(source, out)
    faults = Faults(skip_unreadable, outside_paths, strict)
    try:
        annotated = READERS[format](source, faults, channels, **({} if origin is None else {"origin": origin}))
    except DataError:
        check_export(source, reader=format)
        raise
    if text := faults.skipped_text(source):
        warnings.warn(text, stacklevel=2)
    for inventory in annotated.inventories:
        if inventory.skipped:
            warnings.warn(f"{source}: {inventory}.", stacklevel=2)
    if merge and any(image.negatives is not None for images in annotated.splits.values() for image in images):
        raise ConfigError(f"merge: {source} has labels of some classes in each image only. Fix: leave it out.")
    if merge:
        annotated = merge_classes(annotated, merge)
    splits = splits or (None if {"train", "val"} <= annotated.splits.keys() else DEFAULT_SPLITS)
    if splits:
        annotated = split_again(annotated, splits, seed, channels)
    with atomic_folder(out) as folder:
        for split, images in annotated.splits.items():
            _write_split(annotated, split, images, folder, source, track, channels or RGB)
    return replace(annotated, skipped=tuple(faults.skipped))


def _write_split(
    annotated: Annotated,
    split: str,
    images: list[AnnotatedImage],
    folder: Path,
    source: Path,
    track: Track,
    channels: Channels,
) -> None:
    names = _file_names(images, source)
    for image, name in track(zip(images, names, strict=True), f"Writing {split}", len(images)):
        _link_or_copy(image, folder / "images" / split / name, channels)
    for name in ("annotations", f"images/{split}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    file = folder / "annotations" / f"instances_{split}.json"
    file.write_text(coco_json(annotated, images, names), encoding="utf-8")


def coco_json(
    annotated: Annotated, images: Sequence[AnnotatedImage], names: Sequence[str], root: Path | None = None
) -> str:
    """The json of a split in COCO's format. names: the images' `file_name`s. root: the data set's folder, to add the
    key `source` to objects without a mask, for messages; None: not added."""
    ids = annotated.ids or tuple(range(1, len(annotated.classes) + 1))
    category_id = dict(zip(annotated.classes, ids, strict=True))
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, name) in enumerate(zip(images, names, strict=True), 1):
        listed.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        if image.negatives is not None:
            for key, classes in (("neg", image.negatives), ("not_exhaustive", image.not_exhaustive)):
                listed[-1][f"{key}_category_ids"] = [category_id[name] for name in classes if name in category_id]
        for obj in image.objects:
            record = {"id": len(annotations) + 1, "image_id": number, "category_id": category_id[obj.category]}
            source = {"source": shown_place(obj.source, root)} if root and obj.source and not obj.segmentation else {}
            annotations.append(record | _record(obj) | source)
    categories = [{"id": category_id[name], "name": name} for name in annotated.classes]
    return json.dumps({"images": listed, "annotations": annotations, "categories": categories}, ensure_ascii=False)


def _record(obj: AnnotatedObject) -> dict[str, Any]:
    area = obj.bbox[2] * obj.bbox[3] if obj.area is None else obj.area
    # float32's precision is 1e-4 of a pixel at most: six decimals remove the noise of products
    values = {"bbox": np.round(obj.bbox, 6).tolist(), "area": round(area, 6), "iscrowd": int(obj.iscrowd)}
    segmentation = {} if obj.segmentation is None else {"segmentation": obj.segmentation}
    return {**values, **segmentation, **obj.more}


def _file_names(images: list[AnnotatedImage], source: Path) -> list[str]:
    """File names of images; if two images share a name, their paths relative to the source."""
    count = Counter(image.path.name for image in images)
    names = []
    for image in images:
        name = image.path.name
        if count[name] > 1:
            with suppress(ValueError):  # a path of a list file, outside of the source
                name = Path(os.path.normpath(image.path)).relative_to(os.path.normpath(source)).as_posix()
        names.append(name.encode(errors="backslashreplace").decode())  # json is UTF-8, file names need not be
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{source}: two images are called {twice}. Rename one of them.")
    return names


def _link_or_copy(image: AnnotatedImage, path: Path, channels: Channels) -> None:
    """Links an image's files to `path`, and copies them where a link is impossible; writes an image from an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.content is not None:
        path.write_bytes(image.content)
        return
    for source, target in zip(channel_paths(image.path, channels), channel_paths(path, channels), strict=True):
        try:
            os.link(os.path.realpath(source), target)
        except OSError:  # another file system, or too many links
            shutil.copyfile(source, target)
