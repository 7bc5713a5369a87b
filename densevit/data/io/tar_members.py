"""Files in a tar, read in place: one pass over the headers lists them; reading one takes one seek and one read."""

import os
import tarfile
from typing import NamedTuple

from densevit.data.io.file_errors import naming_file
from densevit.errors import DataError
from densevit.paths import check_unpacked


class TarMember(NamedTuple):
    """A file in a tar. offset, size: position and length of its content, in bytes."""

    tar: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Returns the content. Thread-safe. Raises UnreadableFileError if the tar cannot be read."""
        with naming_file(self.tar, "tar file"), open(self.tar, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def find_members(path: str, suffixes: tuple[str, ...]) -> dict[str, TarMember]:
    """Returns the files of a tar with these suffixes by name, in the tar's order, without hidden files and links.

    Concatenated tars are read to the end; of files with one name, the last counts, as for the program tar. Raises
    UnreadableFileError if the tar is compressed, damaged, cut short or without such files.
    """
    check_unpacked(path, tar_allowed=True)
    with naming_file(path, "tar file"), tarfile.open(path, "r:", ignore_zeros=True) as tar:
        members, end = {}, 0
        for member in tar:
            _check_zeros(tar, end, member.offset)
            end = tar.offset
            hidden = member.name.rpartition("/")[2].startswith(".")
            if member.isreg() and member.name.lower().endswith(suffixes) and not hidden:
                members[member.name] = TarMember(path, member.offset_data, member.size)
        _check_zeros(tar, end, os.path.getsize(path))
        if not members:
            raise DataError(f"no images in this tar; expected {', '.join(suffixes)}.")
    return members


def _check_zeros(tar: tarfile.TarFile, start: int, end: int) -> None:
    """Raises DataError unless these bytes are zeros, as between concatenated tars: tarfile skips a damaged header."""
    assert tar.fileobj is not None
    tar.fileobj.seek(start)
    if tar.fileobj.read(max(0, end - start)).strip(b"\0"):
        raise DataError(f"the tar is damaged at byte {start:,}. Fix: copy or write it again.")
