"""Images in tar files: what is listed, reading in threads, damaged files."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from densevit.errors import UnreadableFileError
from densevit_batch.tar_images import find_members

SUFFIXES = (".jpg", ".png")


def tar_of(path: Path, names: list[str], format: int = tarfile.PAX_FORMAT) -> dict[str, bytes]:
    """Writes files of random bytes and lengths; returns them by name."""
    rng = np.random.default_rng(0)
    files = {name: rng.bytes(int(rng.integers(0, 3000))) for name in names}
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return files


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_listed_in_order_and_read_in_threads(tmp_path: Path, format: int):
    images = ["b/1.jpg", "a/2.PNG", "./3.png", f"{'x' * 90}/{'y' * 60}.jpg", "1.mask.png"]
    others = ["b/1.json", "b/._1.jpg", ".hidden.png", "1.txt"]
    files = tar_of(tmp_path / "a.tar", [*others[:2], *images, *others[2:]], format)
    with tarfile.open(tmp_path / "a.tar", "a", format=format) as tar:
        for name, kind, target in (("link.jpg", tarfile.LNKTYPE, "b/1.jpg"), ("folder.jpg", tarfile.DIRTYPE, "")):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, target
            tar.addfile(header)
    members = find_members(str(tmp_path / "a.tar"), SUFFIXES)
    assert [*members] == images
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(lambda name: members[name].read(), [*members] * 20))
    assert contents == [files[name] for name in images] * 20


def test_a_tar_that_is_cut_short_is_named(tmp_path: Path):
    path = tmp_path / "a.tar"
    tar_of(path, ["1.jpg", "2.txt", "3.png"])
    data = path.read_bytes()
    for cut in (0, 100, 512, 2000):
        path.write_bytes(data[:cut])
        with pytest.raises(UnreadableFileError, match=r"^[^\n]*a\.tar[^\n]+$"):
            find_members(str(path), SUFFIXES)
    with pytest.raises(UnreadableFileError, match=r"none\.tar: there is no such tar file"):
        find_members(str(tmp_path / "none.tar"), SUFFIXES)
