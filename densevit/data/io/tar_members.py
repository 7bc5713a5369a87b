"""Files in a tar, read in place: one pass over the headers lists them, and each is then one seek and one read."""

import re
import tarfile
from typing import NamedTuple

from densevit.data.io.file_errors import naming_file
from densevit.errors import DataError

_RECORD = re.compile(r"\d{9}\.")  # of `densevit shard`: NUMBER.jpg, then the label map, NUMBER.png, and other files


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

    Of a record of `densevit shard`, only the first is returned: the image, not the label map. Raises
    UnreadableFileError if the tar is compressed, damaged or cut short.
    """
    members: dict[str, TarMember] = {}
    with naming_file(path, "tar file"), open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (header := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # the headers so far, 1 kB each
            is_image = header.name.lower().endswith(suffixes) and not header.name.rpartition("/")[2].startswith(".")
            record = _RECORD.match(header.name)
            if is_image and header.isreg() and not (record and next(reversed(members), "").startswith(record[0])):
                members[header.name] = TarMember(path, header.offset_data, header.size)
            elif is_image and header.islnk() and header.linkname in members:
                members[header.name] = members[header.linkname]
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile ends there silently
            raise DataError(f"the tar is cut short or damaged at byte {tar.offset:,}. Fix: copy or write it again.")
        if not members:
            raise DataError(f"no images in this tar; expected {', '.join(suffixes)}.")
    return members
