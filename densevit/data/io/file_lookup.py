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

    The name as it is written comes first; then with slashes for backslashes, with percent-encoding such as `%20`
    decoded, and with both, each with accents in any Unicode form (macOS writes NFD, others NFC). None if there is no
    such file. outside_paths: whether these other forms may lead out of the folder, by `..` or as an absolute path; the
    name as it is written is not checked (see `check_file_names`).
    """
    for form in name_forms(name):
        if form != name and not outside_paths and is_outside(form, folder):
            continue
        if os.path.isfile(os.path.join(folder, form)):
            return form
    return None


def name_forms(name: str) -> Iterator[str]:
    """Yields a file name as it is written, and, if they differ, with slashes for backslashes and without
    percent-encoding, each with accents as one character (NFC) and as two (NFD)."""
    forms = [name, name.replace("\\", "/")]
    with suppress(UnicodeDecodeError):  # not the encoding of UTF-8
        decoded = unquote(name, errors="strict")
        forms += [decoded, decoded.replace("\\", "/")]
    normalized = [(form, unicodedata.normalize("NFC", form), unicodedata.normalize("NFD", form)) for form in forms]
    yield from dict.fromkeys(itertools.chain(*normalized))
