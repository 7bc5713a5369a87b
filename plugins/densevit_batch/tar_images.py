"""The images in a tar: one pass over the headers lists them."""

import os
import re
import tarfile
from collections.abc import Mapping

from densevit.data.datasets.pair_paths import LABELS
from densevit.data.io.file_errors import naming_file
from densevit.data.io.tar_members import TarMember
from densevit.errors import DataError, counted, warn_once
from densevit.grouping import grouped
from densevit.paths import check_unpacked

_JPEG = (".jpg", ".jpeg")
_SAMPLE = re.compile(r"\.[^/]*\Z")  # what follows the name of a sample, from the first dot of the file's name on


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


def without_labels(tar: str, members: Mapping[str, TarMember]) -> dict[str, TarMember]:
    """The images of a tar without label maps: files whose names are equal up to the first dot are one sample, as in
    WebDataset. Its label maps are lossless files beside a JPEG, or with more suffixes than another file: a.png of
    a.jpg, a.seg.png of a.png. Warns of them."""
    samples = grouped((_SAMPLE.sub("", name), name) for name in members)  # by folder and name up to the first dot
    labels = list[str]()
    for names in samples.values():
        fewest, has_jpeg = min(name.count(".") for name in names), any(name.lower().endswith(_JPEG) for name in names)
        labels += [n for n in names if n.lower().endswith(LABELS) and (has_jpeg or n.count(".") > fewest)]
    if labels:
        warn_once(
            f"{tar}: {counted(len(labels), 'file')} such as {labels[0]} left out as label maps, which have the name of "
            "an image up to the first dot. Fix: to predict them, unpack the tar."
        )
    return {name: member for name, member in members.items() if name not in {*labels}}


def _check_zeros(tar: tarfile.TarFile, start: int, end: int) -> None:
    """Raises DataError unless these bytes are zeros, as between concatenated tars: tarfile skips a damaged header."""
    assert tar.fileobj is not None
    tar.fileobj.seek(start)
    if tar.fileobj.read(max(0, end - start)).strip(b"\0"):
        raise DataError(f"the tar is damaged at byte {start:,}. Fix: copy or write it again.")
