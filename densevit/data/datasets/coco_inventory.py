"""Notes about the crowds of a COCO json, and about image files that no json names."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from densevit.channels import Channels
from densevit.data.datasets.coco_json import parse_json, section_of
from densevit.data.datasets.coco_layouts import SplitFiles
from densevit.data.datasets.examination import listed
from densevit.data.datasets.image_files import first_files, image_suffixes
from densevit.data.io.file_lookup import find_file
from densevit.errors import DataError, counted

USUAL_CROWDS = 0.05  # share of the objects; COCO has 0.012


def crowd_note(iscrowd: np.ndarray) -> str:
    """Returns the sentence about the crowds of a json, (M,) bool; "" if they are as rare as in COCO."""
    crowds = int(iscrowd.sum())
    if crowds <= USUAL_CROWDS * len(iscrowd):
        return ""
    return (
        f"{crowds:,} of {counted(len(iscrowd), 'object')} have iscrowd 1: not trained on, not counted in AP (COCO's "
        "rule, for groups of objects). CVAT writes it for brush masks, densevit data convert voc for difficult "
        "objects. Fix: data.crowds=objects uses them as objects, data.crowds=ignore confirms the rule."
    )


def unlisted_note(files: Sequence[str]) -> str:
    """Returns the sentence about image files that no json names; "" if there are none."""
    if not files:
        return ""
    return (
        f"{counted(len(files), 'image file')} beside the images {'is' if len(files) == 1 else 'are'} in no json of the "
        f"data set, and not used: {listed(map(os.path.basename, files), 3)}. Images without objects need an entry of "
        "`images` too."
    )


def image_files(folders: Iterable[str], channels: Channels) -> set[str]:
    """Returns the image files of these channels in folders, without their subfolders."""
    suffixes = image_suffixes(channels)
    files = (
        entry.path
        for folder in folders
        if os.path.isdir(folder)
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(suffixes) and not entry.name.startswith(".")
    )
    return {*first_files(files, channels)}


def without_named(files: set[str], jsons: Iterable[tuple[Path, Sequence[str]]]) -> set[str]:
    """Returns the files that no json names.

    jsons: the folder and the names of the images of each json; no more are read than are needed.
    """
    for folder, names in jsons if files else ():
        files = files - {os.path.normpath(os.path.join(folder, name)) for name in names}
        if not files:
            break
        others = (find_file(folder, name, outside_paths=True) for name in names)
        files -= {os.path.normpath(os.path.join(folder, name)) for name in others if name is not None}
    return files


def named_files(files: SplitFiles) -> tuple[Path, list[str]]:
    """Returns the folder of a json's images and their names; none for a json that cannot be read."""
    try:
        records = section_of(files.file, parse_json(files.file, keep_segmentations=False), "images")
        names = [name for record in records if isinstance(name := record.get("file_name"), str)]
        return files.image_folder(names), names
    except DataError:
        return files.file.parent, []
