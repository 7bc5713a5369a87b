"""Reads text and JSON files that other programs write: with byte-order marks, in UTF-8 or UTF-16."""

import codecs
import json
from pathlib import Path
from typing import Any

from densevit.data.io.file_errors import check_regular
from densevit.errors import DataError, one_line

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """Returns the content of a text file without its byte-order mark. Raises DataError if it cannot be read."""
    check_regular(path)
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
        return content.decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else one_line(error)
        raise DataError(f"{path} cannot be read as UTF-8 text: {reason}.") from None


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises DataError if it cannot be read."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {one_line(error)}.") from None
