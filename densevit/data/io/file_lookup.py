"""Finds files whose names other programs write differently: with backslashes, percent-encoded, with accents in another
Unicode form, or as URLs and paths of another machine."""

import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote

from densevit.data.outside_paths import is_outside

_ELSEWHERE = re.compile(r"^/|^[A-Za-z]:/|://|(^|/)\.\./")
_UPLOAD = re.compile("^[0-9a-f]{8}-")  # a hash, which Label Studio writes before the names of uploads


def find_file(folder: str | os.PathLike[str], name: str, outside_paths: bool = False) -> str | None:
    """Returns the name, relative to a folder or absolute, of the file that another program calls `name`.

    Tries the forms of `name_forms`; returns None if no file has one of them. outside_paths: whether forms other than
    `name` itself may lead out of the folder, by `..` or as an absolute path; the name as written is not checked (see
    `existing_files`).
    """
    forms = (form for form in name_forms(name) if form == name or outside_paths or not is_outside(form, folder))
    return next((form for form in forms if os.path.isfile(os.path.join(folder, form))), None)


def name_forms(name: str) -> Iterator[str]:
    """Yields the different forms of a file name: as written, with slashes for backslashes, with percent-encoding such
    as `%20` decoded, and with both; each with accents as one character (NFC) and as two (NFD, as macOS writes)."""
    forms = [name, name.replace("\\", "/")]
    with suppress(UnicodeDecodeError):  # percent-encoding of another charset than UTF-8
        decoded = unquote(name, errors="strict")
        forms += [decoded, decoded.replace("\\", "/")]
    normalized = [(form, unicodedata.normalize("NFC", form), unicodedata.normalize("NFD", form)) for form in forms]
    yield from dict.fromkeys(itertools.chain(*normalized))


def find_by_base_name(folder: str | os.PathLike[str], name: str) -> str | None:
    """Returns the file in a folder, relative to it, of a URL or a path out of the folder; None if there is none."""
    names = (local for local in local_names(name) if not is_outside(local, folder))
    return next((local for local in names if os.path.isfile(os.path.join(folder, local))), None)


def local_names(name: str) -> Iterator[str]:
    """Yields the names in the images' folder of an image that a URL, `..` or an absolute path names.

    These are the PATH of Label Studio's /data/local-files/?d=PATH, the base name, and the base name without the hash of
    an upload. Yields nothing for a path below the folder.
    """
    for form in name_forms(name):
        if _ELSEWHERE.search(form):
            path = form.partition("?d=")[2] or form.partition("?")[0]
            base = path.rpartition("/")[2]
            yield from (path, base, _UPLOAD.sub("", base))
