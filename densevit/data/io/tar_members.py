"""Files in a tar, read in place: one pass over the headers lists them, and each is then one seek and one read."""

import posixpath
import re
import tarfile
import warnings
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from densevit.data.io.file_errors import naming_file
from densevit.errors import DataError
from densevit.paths import check_unpacked

_KEY = re.compile(r"(?:.*/)?[^./]*")  # of a name in WebDataset: up to the first dot of the file
_CHUNK = 1 << 20


class TarMember(NamedTuple):
    """A file in a tar. offset, size: the place of its content, in bytes."""

    tar: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Returns the content, in any thread. Raises UnreadableFileError if the tar cannot be read."""
        with naming_file(self.tar, "tar file"), open(self.tar, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def find_members(path: str, suffixes: tuple[str, ...]) -> dict[str, TarMember]:
    """Returns the files of a tar with these suffixes by name, in its order, without hidden ones.

    Links have the content of their file; a name that occurs again, as in joined tars, is NAME#2. Warns of links to no
    such file, and of images that may be masks or depth of others. Raises UnreadableFileError if the tar is compressed,
    damaged or cut short.
    """
    found: dict[str, TarMember | str] = {}  # text: the file that a link names
    check_unpacked(path, tar_allowed=True)
    with naming_file(path, "tar file"), open(path, "rb") as file:
        for header in _headers(file):
            folder, _, name = header.name.rpartition("/")
            if name.startswith(".") or not name.lower().endswith(suffixes):
                continue
            key, count = header.name, 1
            while key in found:
                count += 1
                key = f"{header.name}#{count}"
            if header.isreg():
                found[key] = TarMember(path, header.offset_data, header.size)
            elif header.islnk() or header.issym():
                found[key] = posixpath.normpath(posixpath.join(folder if header.issym() else "", header.linkname))
        members = _followed(path, found)
        if not members:
            raise DataError(f"no images in this tar; expected {', '.join(suffixes)}.")
    _warn_of_parts(path, members)
    return members


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yields the headers of a tar, or of tars that are joined: one begins after the zeros at the end of another."""
    while True:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (header := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # the headers so far, 1 kB each
                yield header
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile ends there silently
            raise DataError(f"the tar is cut short or damaged at byte {tar.offset:,}. Fix: copy or write it again.")
        while not (chunk := file.read(_CHUNK)).strip(b"\0"):
            if not chunk:
                return
        first = len(chunk) - len(chunk.lstrip(b"\0"))
        file.seek((file.tell() - len(chunk) + first) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE)


def _followed(path: str, found: dict[str, TarMember | str]) -> dict[str, TarMember]:
    """Returns the files with the files to which links lead. Warns of links that lead to none."""
    links = [name for name, one in found.items() if isinstance(one, str)]
    by_path = {posixpath.normpath(name): one for name, one in found.items()} if links else {}
    for name in links:
        seen = set()
        while isinstance(target := found[name], str) and target not in seen:
            seen.add(target)
            found[name] = by_path.get(target, target)
    members = {name: one for name, one in found.items() if isinstance(one, TarMember)}
    if lost := [name for name in links if name not in members]:
        warnings.warn(
            f"{path}: {len(lost):,} links to no image of this tar are left out; the first is {lost[0]}, a link to "
            f"{found[lost[0]]}. Fix: write the tar with the files in place of links (tar --dereference).",
            stacklevel=3,
        )
    return members


def _warn_of_parts(path: str, members: dict[str, TarMember]) -> None:
    """Warns of images that may be a mask or depth of another: KEY.depth.png or KEY.png beside KEY.jpg."""
    images: dict[str, str] = {}  # by key
    for name in members:
        images.setdefault(posixpath.splitext(name)[0], name)
    first = {name: images.get(_KEY.match(name)[0], name) for name in members}  # type: ignore[index]
    parts = [name for name, image in first.items() if image != name and "#" not in name]
    if parts:
        warnings.warn(
            f"{path}: {len(parts):,} of {len(members):,} images have the key of another, such as {parts[0]} beside "
            f"{first[parts[0]]}; all are predicted. Fix: write the tar without them if they are masks or depth.",
            stacklevel=3,
        )
