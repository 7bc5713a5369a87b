"""Recognises exports of label tools that no data set reads, and names the command or the export to choose."""

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from densevit.data.io.text_files import read_text
from densevit.errors import DataError

_DEPTHS = ("", "*/", "*/*/")  # folders in which files are searched for
_SEEN = 3  # files of a pattern that are read
_HEAD = 1 << 16  # characters of a file that are searched
_TASKS = r'\A\s*\[\s*\{(?s:(?=.*"data"\s*:))(?s:(?=.*"(annotations|completions)"\s*:))'


class _Export(NamedTuple):
    """A format. files: glob pattern in up to two folders. content: a regular expression in the first characters. fix:
    a clause, with the data set's {root} and the {file}."""

    name: str
    files: str
    content: str
    fix: str


_DATUMARO = "convert it by Datumaro: datum convert -i {root} -if %s -f coco -o NEW_FOLDER -- --save-media"
_CVAT = "export the task in the format COCO 1.0, or Segmentation mask for label maps, with its images"
_PANOPTIC = (
    "data.name=coco_panoptic with data.annotations, data.segments and data.images; for boxes and masks of its things, "
    "densevit data convert coco_panoptic {root} NEW_FOLDER"
)
_OPEN_IMAGES = "densevit data convert open_images {root} NEW_FOLDER"
_MASKS = (
    "data.name=label_maps data.images='{{split}}/*.jpg' data.labels='{{split}}/*_mask.png' data.classes='[{classes}]'"
)
_EXPORTS = (
    _Export("CVAT's own format", "annotations.xml", "<annotations>", _CVAT),
    _Export("Datumaro's format", "annotations/*.json", r'"items"\s*:\s*\[', _DATUMARO % "datumaro"),
    _Export("COCO's panoptic format", "*.json", '"segments_info"', _PANOPTIC),
    _Export("Label Studio's JSON", "*.json", _TASKS, "densevit data convert label_studio {file} NEW_FOLDER"),
    _Export("Supervisely's format", "ann/*.json", '"geometryType"|"classTitle"', "export it by the app Export to COCO"),
    _Export("LabelMe 3.0's format", "*.xml", "<polygon>", _DATUMARO % "label_me"),
    _Export("KITTI's format", "label_2/*.txt", r"\A[A-Za-z_]+(\s-?[\d.]+){14,15}\s*$", _DATUMARO % "kitti"),
    _Export("MOT's format", "gt/gt.txt", r"\A\d+,-?\d+(,-?[\d.]+){4}", _DATUMARO % "mot_seq"),
    _Export("Open Images' format", "*.csv", r"\AImageID,Source,LabelName,Confidence", _OPEN_IMAGES),
    _Export("Hugging Face's format", "metadata.jsonl", '"bbox"', "data='{{name: hf, path: {root}}}'"),
    _Export("Roboflow's CSV", "_annotations.csv", r"\Afilename,width,height,class", "export it as COCO or YOLO"),
    _Export("Roboflow's masks", "_classes.csv", r"\APixel Value,\s*Class", _MASKS),
)


def check_export(root: Path, reader: str = "") -> None:
    """Raises DataError for a folder or file in one of these formats, with the fix. reader: the format of a conversion,
    which reads its own export."""
    for export in (export for export in _EXPORTS if f"convert {reader} " not in export.fix):
        for file in islice(_files(root, export.files), _SEEN):
            with suppress(DataError):  # not text
                text = read_text(file)[:_HEAD]
                if re.search(export.content, text, re.MULTILINE):
                    break
        else:
            continue
        classes = ", ".join(row[-1].strip() for row in csv.reader(text.splitlines()[1:]) if row)
        fix = export.fix.format(root=root, file=file, classes=classes)
        raise DataError(f"{file} is in {export.name}, which this data set does not read. Fix: {fix}.")


def _files(root: Path, pattern: str) -> Iterator[Path]:
    if root.is_file():
        yield from [root] if root.match(pattern.rpartition("/")[2]) else []
        return
    for depth in _DEPTHS:
        yield from filter(Path.is_file, sorted(root.glob(depth + pattern)))
