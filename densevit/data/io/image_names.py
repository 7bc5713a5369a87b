"""Names of images, and file names for them."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from densevit.data.io.channel_files import IMAGES
from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
from densevit.interfaces import Dataset

BEST, WORST = "best", "worst"  # folders of the drawings of the best and worst images
_MAX_NAME_BYTES = 200  # file systems allow 255, including the suffix


def file_name(image_id: int | str) -> str:
    """Returns a relative path without suffix for an image's files. Different ids give different paths.

    Slashes in ids separate folders. Characters that some file systems reject become %XX. A checksum replaces the end of
    a name that is too long. The integer 1 and the string "1" give the same path; see `checksum`.
    """
    return "/".join(_file_name_part(part, image_id) for part in str(image_id).split("/"))


def image_names(dataset: Dataset, indices: Mapping[int | str, int]) -> dict[int | str, str]:
    """Returns `image_name` by image id. indices: the data set index of each image id."""
    return {image_id: image_name(dataset, index, image_id) for image_id, index in indices.items()}


def image_name(dataset: Dataset, index: int, image_id: int | str) -> str:
    """Returns the data set's name of an image, or the image's id if it has none."""
    name = dataset.image_name(index)
    return str(image_id) if name is None else name


def drawing_name(name: str) -> str:
    """Returns the name of an image's visualization, without folders and suffix."""
    stem, suffix = os.path.splitext(name)
    return file_name(stem if suffix.lower() in (*IMAGES, *CHANNEL_FILES) else name).replace("/", "-")


def drawing_names(names: Iterable[str]) -> dict[str, str]:
    """Returns `drawing_name` by image name. If several images would have the same drawing name, ignoring case, appends
    a
    checksum of the image name to each: "a/b.png" and "a-b.png" get different files."""
    drawings = {name: drawing_name(name) for name in names}
    counts = Counter(drawing.casefold() for drawing in drawings.values())
    return {
        name: drawing if counts[drawing.casefold()] == 1 else distinct_drawing_name(name)
        for name, drawing in drawings.items()
    }


def distinct_drawing_name(name: str) -> str:
    """Returns `drawing_name` with a checksum of the image's name."""
    return f"{drawing_name(name)}-{checksum(name)}"


def checksum(image_id: int | str) -> str:
    """Returns twelve hexadecimal digits that differ for different ids; the integer 1 and the string "1" differ."""
    return hashlib.sha256(repr(image_id).encode()).hexdigest()[:12]


def _file_name_part(part: str, image_id: int | str) -> str:
    part = re.sub(r'[\x00-\x1f\x7f"%*:<>?\\|]|^\.|[. ]$', lambda match: f"%{ord(match[0]):02X}", part) or "%"
    if len(os.fsencode(part)) > _MAX_NAME_BYTES:
        head = os.fsencode(part)[: _MAX_NAME_BYTES - 20].decode(errors="ignore")
        return f"{head}-{checksum(image_id)}"
    return part
