"""A file in a tar, read in place by one seek and one read."""

from typing import NamedTuple

from densevit.data.io.file_errors import naming_file


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
