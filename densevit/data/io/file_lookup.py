"""Finds files whose names other programs write differently: with backslashes, percent-encoded, or with accents in
another Unicode form."""

import os
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from densevit.data.outside_paths import is_outside

_MOST_PLACES = 8  # folders whose names differ only in the form of their accents, on one path


def find_file(folder: str | os.PathLike[str], name: str, outside_paths: bool = False) -> str | None:
    """Returns the name, relative to a folder or absolute, of the file that another program calls `name`.

    The name as it is written comes first; then with slashes for backslashes, with percent-encoding such as `%20`
    decoded, and with both, each with accents in any Unicode form (macOS writes NFD, others NFC). None if there is no
    such file. outside_paths: whether these other forms may lead out of the folder, by `..` or as an absolute path; the
    name as it is written is not checked (see `check_file_names`).
    """
    if os.path.isfile(os.path.join(folder, name)):
        return name
    for form in name_forms(name):
        if form != name and not outside_paths and is_outside(form, folder):
            continue
        found = _with_any_accents(folder, form)
        if found is not None:
            return found
    return None


def missing_hint(folder: str | os.PathLike[str], name: str) -> str:
    """Returns a sentence with the cause and the fix, if the file of this name is in the folder itself, or the name has
    other forms; otherwise ""."""
    *_, form = name_forms(name)
    base = form.rpartition("/")[2]
    there = None if base == name else find_file(folder, base)
    if there is not None:
        return f" There is {os.path.join(folder, there)}: correct the folders of the name {name!r}."
    return "" if form == name else f" {name!r} was searched for as {form!r} too: correct the name, or move the file."


def name_forms(name: str) -> Iterator[str]:
    """Yields a file name as it is written, and, if they differ, with slashes for backslashes and without
    percent-encoding."""
    forms = [name, name.replace("\\", "/")]
    if "%" in name:
        try:
            decoded = unquote(name, errors="strict")
            forms += [decoded, decoded.replace("\\", "/")]
        except UnicodeDecodeError:  # not the encoding of UTF-8
            pass
    yield from dict.fromkeys(form for form in forms if form == name or "\0" not in form)


def _with_any_accents(folder: str | os.PathLike[str], name: str) -> str | None:
    """Returns the name of an existing file that differs at most in the Unicode form of its parts."""
    places = [""]
    for i, part in enumerate(name.split("/")):
        forms = dict.fromkeys([part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))])
        paths = [f"{place}/{form}" if i else form for place in places for form in forms]
        places = [path for path in paths if os.path.exists(os.path.join(folder, path))][:_MOST_PLACES]
    return next((path for path in places if os.path.isfile(os.path.join(folder, path))), None)
