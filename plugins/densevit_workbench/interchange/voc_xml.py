"""Reads the xml files of Pascal VOC data sets, with coordinates as written."""

import itertools
import math
import re
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

from densevit.data.io.file_errors import check_regular
from densevit.errors import DataError, one_line
from densevit_workbench.interchange.annotated import NO_AREA, number
from densevit_workbench.interchange.faults import Faults, InvalidObjectError

_DECLARATION = re.compile(r"""^\s*<\?xml[^>]*?encoding=["']([\w.:-]+)["'][^>]*\?>""")


class VocObject(NamedTuple):
    """An object. corners: xmin, ymin, xmax, ymax as written. position: the object's number in the file, from 1.
    degrees: clockwise rotation about the centre."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    position: int
    degrees: float = 0.0


class VocDocument(NamedTuple):
    """An xml file. size: (h, w) of the image, 0 if unknown. origin: the coordinate of the first pixel for the tool that
    wrote the file; None for an unknown tool. tool: the tool, or its mark; "" for an unknown tool."""

    file: Path
    filename: str
    folder: str
    size: tuple[int, int]
    objects: list[VocObject]
    origin: Literal[0, 1] | None
    tool: str


def read_document(file: Path, faults: Faults) -> VocDocument | None:
    """Reads an xml file; None if it does not annotate an image."""
    root = _parsed(file)
    if root.tag.lower() != "annotation" and root.find("object") is None:
        return None
    height, width = (_side(root, side, file) for side in ("height", "width"))
    objects = faults.map(partial(_object, file), root.iter("object"), itertools.count(1))
    filename, folder, path = ((root.findtext(name) or "").strip() for name in ("filename", "folder", "path"))
    return VocDocument(file, filename or path, folder, (height, width), objects, *_tool(root))


def _tool(root: ElementTree.Element) -> tuple[Literal[0, 1] | None, str]:
    """The coordinate of the first pixel, by the marks of the tool that wrote a file: VOC and labelImg count from 1 to
    the last pixel; CVAT, Datumaro, FiftyOne, globox and roLabelImg from 0 to the pixel behind it."""
    database, folder = root.findtext("source/database"), (root.findtext("folder") or "").strip()
    if "VOC" in (database or "").upper() or re.fullmatch(r"VOC\d{4}", folder, re.IGNORECASE):
        return 1, f"of {(database or folder).strip()}"
    if root.find(".//robndbox") is not None:
        return 0, "of roLabelImg"
    if root.find(".//attributes") is not None or root.findtext("source/annotation") == "Unknown":
        return 0, "of CVAT or Datumaro"
    if database is not None and not database.strip():
        return 0, "of FiftyOne"
    if any("." in (side.text or "") for box in root.iter("bndbox") for side in box):
        return 0, "with decimals"
    return (1, "of labelImg") if database == "Unknown" else (None, "")


def _parsed(file: Path) -> ElementTree.Element:
    """Parses an xml file, also in encodings that expat does not know, such as gb2312."""
    check_regular(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # ValueError: an encoding of several bytes
        reason = one_line(error)
    declared = _DECLARATION.match(content[:200].decode("latin-1"))
    if declared is not None:
        for encoding in (declared[1], "utf-8-sig"):  # some declare utf-16 and write utf-8
            try:
                return ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", content.decode(encoding)))
            except (ElementTree.ParseError, ValueError, LookupError):
                continue
    raise DataError(f"{file} is not valid xml: {reason}.")


def _side(root: ElementTree.Element, side: str, file: Path) -> int:
    """The height or width of the image, 0 if unknown."""
    text = root.findtext(f"size/{side}") or "0"
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise DataError(f"{file}: size: {text!r} is not a number.") from None


def _object(file: Path, element: ElementTree.Element, position: int) -> VocObject:
    name = " ".join((element.findtext("name") or "").split())
    if not name:
        raise DataError(f"{file}, object {position} has no name.")
    where, difficult = f"{file}, object {position} ({name})", element.findtext("difficult") == "1"
    if (box := element.find("robndbox")) is not None:  # of roLabelImg
        cx, cy, w, h, angle = (
            number(box.findtext(key), f"{where}: robndbox: {key}") for key in ("cx", "cy", "w", "h", "angle")
        )
        corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        return VocObject(name, corners, difficult, position, math.degrees(angle))
    sides = {side: element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")}
    lacking = [side for side, text in sides.items() if text is None]
    if lacking:
        raise InvalidObjectError(where, f"there is no {lacking[0]} in its bndbox.", "without a bndbox")
    x0, y0, x1, y1 = (number(text, f"{where}: {side}") for side, text in sides.items())
    if x1 < x0 or y1 < y0:
        raise InvalidObjectError(
            where, f"its box is {x0:g}, {y0:g}, {x1:g}, {y1:g}; xmax or ymax is too small.", NO_AREA
        )
    attributes = {tag.findtext("name"): tag.findtext("value") for tag in element.iter("attribute")}
    degrees = number(attributes.get("rotation") or 0, f"{where}: rotation")  # of CVAT
    return VocObject(name, (x0, y0, x1, y1), difficult, position, degrees)
