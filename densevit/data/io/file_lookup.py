"""Finds files whose names other programs write differently: with backslashes, percent-encoded, or with accents in
another Unicode form."""

import itertools
import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote

from densevit.data.outside_paths import is_outside


def find_file(folder: str | os.PathLike[str], name: str, outside_paths: bool = False) -> str | None:
    """Returns the name, relative to a folder or absolute, of the file that another program calls `name`.

    Tries the forms of `name_forms`; returns None if no file has one of them. outside_paths: whether forms other than
    `name` itself may lead out of the folder, by `..` or as an absolute path; the name as written is not checked (see
    `check_file_names`).
    """
    for form in name_forms(name):
        if form != name and not outside_paths and is_outside(form, folder):
            continue
        if os.path.isfile(os.path.join(folder, form)):
            return form
    return None


def name_forms(name: str) -> Iterator[str]:
    """Yields the different forms of a file name: as written, with slashes for backslashes, with percent-encoding such
    as `%20` decoded, and with both; each with accents as one character (NFC) and as two (NFD, as macOS writes)."""
    forms = [name, name.replace("\\", "/")]
    with suppress(UnicodeDecodeError):  # percent-encoding of another charset than UTF-8
        decoded = unquote(name, errors="strict")
        forms += [decoded, decoded.replace("\\", "/")]
    normalized = [(form, unicodedata.normalize("NFC", form), unicodedata.normalize("NFD", form)) for form in forms]
    yield from dict.fromkeys(itertools.chain(*normalized))
