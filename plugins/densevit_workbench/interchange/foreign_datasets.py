"""Data sets in YOLO's and Pascal VOC's format, without a conversion of images.

Annotations are converted to a COCO json in the folder of cached scans; `Coco` reads this json and the original images.
The json is written again when a file or folder of the data set has changed.
"""

import atexit
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar, Literal

from densevit import __version__
from densevit.atomic_io import replaced_file
from densevit.channels import Channels
from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.coco_layouts import NamedFiles, SplitFiles, find_files
from densevit.data.datasets.file_checks import OnError
from densevit.data.datasets.scan_cache import Arrays, cache_folder, cached_scan, json_array, json_value
from densevit.data.io.channel_files import IMAGES, channel_paths
from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
from densevit.data.io.folders import files_below
from densevit.errors import DataError, counted, warn_once
from densevit_workbench.interchange.annotated import absolute, below_root
from densevit_workbench.interchange.dataset_conversion import READERS, coco_json
from densevit_workbench.interchange.faults import Faults
from densevit_workbench.interchange.foreign_exports import check_export
from densevit_workbench.interchange.foreign_layouts import foreign_format

_READ = (*IMAGES, *CHANNEL_FILES, ".txt", ".xml", ".yaml", ".yml", ".names")  # files that a reader may read


class ConvertedCoco(Coco):
    """A data set in another format. Options as for `coco`, without options for a json or its images.

    root: the data set's folder, or YOLO's data.yaml.
    """

    format: ClassVar[str]

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Returns {} if the folder has label files of the format, else None."""
        return {} if foreign_format(root) == cls.format else None

    @classmethod
    def find(
        cls,
        root: Path | None,
        split: str,
        named: NamedFiles,
        val_share: float | None,
        outside_paths: bool,
        on_error: OnError,
        channels: Channels,
        voc_origin: Literal[0, 1] | None,
    ) -> tuple[SplitFiles, bool]:
        """Returns the json of a split. Converts the data set if it has changed."""
        if root is None:
            raise DataError("data.root is missing: name the data set's folder.")
        if named != NamedFiles():
            raise DataError(f"{root} is in the format {cls.format!r}, without files in COCO's format to be named.")
        arrays = cached_scan(
            [cls.format, __version__, str(absolute(root)), outside_paths, repr(channels), on_error, voc_origin],
            lambda: _converted(cls.format, root, outside_paths, on_error, channels, voc_origin),
            lambda arrays: list(json_value(arrays["files"])),
            is_large=not outside_paths,  # the label files of images elsewhere are not known
        )
        for text in json_value(arrays["skipped"]):
            warn_once(text)
        files, is_divided = find_files(Path(json_value(arrays["folder"])), split, NamedFiles(), val_share)
        images, conversion = root if root.is_dir() else root.parent, json_value(arrays["conversion"])
        return replace(files, folders=(images,), root=None, conversion=conversion), is_divided


class Yolo(ConvertedCoco):
    """Objects in YOLO's format: one text file per image, with boxes, or with polygons for `masks`."""

    format = "yolo"


class Voc(ConvertedCoco):
    """Objects in Pascal VOC's format: one xml file per image, and SegmentationObject for `masks`."""

    format = "voc"


class Labelme(ConvertedCoco):
    """Recognises labelme's format, and raises an error with the command to convert it."""

    format = "labelme"

    @classmethod
    def find(cls, root: Path | None, *args: Any) -> tuple[SplitFiles, bool]:
        """Raises DataError."""
        raise DataError(
            f"{root} is a data set in labelme's format, with one json file per image. Fix: convert it to COCO's "
            f"format, in a new folder, and set data.root to it: densevit data convert labelme {root} NEW_FOLDER"
        )


class ForeignExport(Coco):
    """Recognises exports of label tools that no data set reads, and raises an error with the fix."""

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Raises DataError for such an export."""
        check_export(root)
        return None


def _converted(
    format: str,
    source: Path,
    outside_paths: bool,
    on_error: OnError,
    channels: Channels,
    voc_origin: Literal[0, 1] | None,
) -> Arrays:
    """Reads a data set and writes one json per split."""
    faults = Faults(on_error == "skip", outside_paths)
    annotated = READERS[format](source, faults, channels, *([voc_origin] if format == "voc" else []))
    skipped = [f"{source}: {inventory}." for inventory in annotated.inventories if inventory.skipped]
    skipped += [text] if (text := faults.skipped_text(source)) else []
    root = source if source.is_dir() else source.parent
    texts = {
        split or "train": coco_json(annotated, images, [below_root(image.path, root) for image in images], root)
        for split, images in annotated.splits.items()
    }
    folder = _written(f"{format}-{root.absolute().name}", texts)
    counts = [f"{split or 'all'}: {counted(len(images), 'image')}" for split, images in annotated.splits.items()]
    skipped_counts = [
        counted(inventory.total - inventory.used, inventory.noun)
        for inventory in annotated.inventories
        if inventory.skipped
    ]
    conversion = (
        f"{source} is in the format {format!r}: {counted(len(annotated.classes), 'class')}; {', '.join(counts)}"
        f"{'; left out: ' if skipped_counts else ''}{', '.join(skipped_counts)}. In COCO's format: {folder}"
        f"{''.join(f'; {note}' for note in annotated.notes)}"
    )
    files = {absolute(path) for path in files_below(root, _READ)}
    all_images = (image for images in annotated.splits.values() for image in images)
    files |= {absolute(Path(file)) for image in all_images for file in channel_paths(image.path, channels)}
    above = {folder for file in files for folder in file.parents if folder.is_relative_to(absolute(root))}
    watched = [*sorted({*files, *above, absolute(source)}), *sorted(folder.iterdir())]
    return {
        "folder": json_array(str(folder)),
        "conversion": json_array(conversion),
        "skipped": json_array(skipped),
        "files": json_array([str(path) for path in watched]),
    }


def _written(name: str, texts: Mapping[str, str]) -> Path:
    """Writes the jsons into a cache folder named by their hash, or a temporary folder if the cache is off."""
    digest = hashlib.sha256("\n".join(texts.values()).encode(errors="surrogatepass")).hexdigest()[:16]
    folder = cache_folder() / f"{name}-{digest}"
    try:
        if os.environ.get("DENSEVIT_CACHE") == "off":
            raise PermissionError
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, texts)
    except OSError:  # `cached_scan` warns
        folder = Path(mkdtemp(prefix="densevit-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _write(folder, texts)
    return folder


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for split, text in texts.items():
        with replaced_file(folder / f"{split}.json") as partial:
            partial.write_text(text, encoding="utf-8")
