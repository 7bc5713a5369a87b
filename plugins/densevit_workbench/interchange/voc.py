"""Reads Pascal VOC data sets: one xml per image, with boxes in pixels that count from 1 (VOC devkit, section 2).

Objects marked `difficult` become crowds: left out in training and ignored in evaluation, as in VOC.
"""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from pycocotools import mask as rle

from densevit.data.io.file_errors import check_regular
from densevit.data.io.images import check_image
from densevit.data.io.label_files import read_label
from densevit.errors import DataError, UnreadableFileError
from densevit_workbench.interchange.annotated import (
    Annotated,
    AnnotatedImage,
    AnnotatedObject,
    image_files,
    number,
    read_text,
)
from densevit_workbench.interchange.faults import Faults

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_voc(source: Path, faults: Faults) -> Annotated:
    """Reads a VOCdevkit year with Annotations, JPEGImages and ImageSets/Main, or folders of xml files and images."""
    files = [path for path in sorted(source.rglob("*.xml")) if not path.name.startswith(".")]
    if not files:
        raise DataError(f"{source}: no xml file in Pascal VOC's format is found.")
    images = {path.stem: path for path in image_files(source) if "Segmentation" not in path.parent.name}
    by_place = {path.with_suffix(""): path for path in images.values()}
    members = _members(source)
    splits: dict[str, list[AnnotatedImage]] = {}
    for file in files:
        with faults.collecting():
            path = by_place.get(file.with_suffix("")) or images.get(file.stem)
            image = _image(file, path, source, faults)
            splits.setdefault(_split_of(file, source, members), []).append(image)
    faults.check(source, splits)
    names = sorted({one.category for images in splits.values() for image in images for one in image.objects})
    if not names:
        raise DataError(f"{source}: none of {len(files)} xml files has an object.")
    if set(splits) - {""}:
        splits.pop("", None)  # images in no list
    return Annotated(tuple(names), splits)


def _members(source: Path) -> dict[str, str]:
    """Returns the split of each image that ImageSets/Main lists."""
    members: dict[str, str] = {}
    for split in ("test", "val", "train"):  # train overrides
        for file in sorted(source.rglob(f"ImageSets/Main/{split}.txt")):
            members |= {line.split()[0]: split for line in read_text(file).splitlines() if line.strip()}
    return members


def _split_of(file: Path, source: Path, members: dict[str, str]) -> str:
    if members:
        return members.get(file.stem, "")
    parts = file.relative_to(source).parts[:-1]
    return next((split for split, names in _FOLDERS.items() if any(name in parts for name in names)), "")


def _image(file: Path, path: Path | None, source: Path, faults: Faults) -> AnnotatedImage:
    check_regular(file)
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{file} is not valid xml: {error}.") from None
    if path is None:
        named = root.findtext("filename") or file.stem
        raise UnreadableFileError(f"{file}: its image {named} is not found below {source}.")
    header = check_image(path)
    given = tuple(int(number(root.findtext(f"size/{side}") or 0, f"{file}: size")) for side in ("height", "width"))
    if 0 not in given and given not in (header.upright_size, header.size):
        (height, width), (h, w) = header.upright_size, given
        raise DataError(f"{file} is for an image of {w} x {h} pixels; {path} has {width} x {height}.")
    height, width = header.upright_size if 0 in given else given
    masks = _instances(path, (height, width))
    objects = []
    for place, one in enumerate(root.iter("object"), 1):
        with faults.collecting():
            objects.append(_object(one, f"{file}, object {place}", None if masks is None else masks == place))
    return AnnotatedImage(path, height, width, tuple(objects))


def _instances(path: Path, size: tuple[int, int]) -> np.ndarray | None:
    """Returns the object number of each pixel, (H, W); None if SegmentationObject lacks the image."""
    file = path.parent.parent / "SegmentationObject" / f"{path.stem}.png"
    if not file.is_file():
        return None
    pixels = read_label(file)
    if pixels.shape != size:
        raise DataError(f"{file} has {pixels.shape} pixels (h, w); its image has {size}.")
    return pixels


def _object(one: ElementTree.Element, where: str, mask: np.ndarray | None) -> AnnotatedObject:
    name = " ".join((one.findtext("name") or "").split())
    if not name:
        raise DataError(f"{where} has no name.")
    sides = {side: one.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")}
    lacking = [side for side, text in sides.items() if text is None]
    if lacking:
        raise DataError(f"{where} ({name}) has no {lacking[0]} in its bndbox.")
    x0, y0, x1, y1 = (number(text, f"{where} ({name}): {side}") for side, text in sides.items())
    if x1 < x0 or y1 < y0:
        raise DataError(f"{where} ({name}) has the box {x0:g}, {y0:g}, {x1:g}, {y1:g}; xmax or ymax is too small.")
    # coordinates start at 1, and the box includes the last pixel
    bbox = (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)
    segmentation, area = None, None
    if mask is not None and mask.any():
        code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        segmentation, area = {"size": list(code["size"]), "counts": code["counts"].decode()}, float(mask.sum())
    return AnnotatedObject(name, bbox, segmentation, iscrowd=one.findtext("difficult") == "1", area=area)
