"""Images in tar files: what is listed, reading in threads, damaged files."""

import io
import tarfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.data.io.tar_members import find_members
from densevit.errors import UnreadableFileError
from densevit_workbench.interchange.shard_writer import write_record

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
    assert [*members] == [*images, "link.jpg"]
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(lambda name: members[name].read(), [*members] * 20))
    assert contents == [files[name] for name in (*images, "b/1.jpg")] * 20


def test_only_the_image_of_a_record_of_a_shard_is_listed(tmp_path: Path):
    rng = np.random.default_rng(0)
    shard, contents = tmp_path / "000000.tar", []
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, suffix in enumerate(("jpg", "png", "jpg")):
            file = tmp_path / f"{index}.{suffix}"
            Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(file)
            image = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
            labels, depth = torch.from_numpy(rng.integers(0, 3, (5, 7), dtype=np.uint8)), torch.rand(5, 7)
            targets = {"image_id": index, "semantic": labels, "depth": depth}
            write_record(tar, f"{index:09}", {"image": image, "targets": targets}, str(file))
            contents.append(file.read_bytes())
    members = find_members(str(shard), SUFFIXES)
    assert [*members] == ["000000000.jpg", "000000001.png", "000000002.jpg"]
    assert [member.read() for member in members.values()] == contents


PARTS = [f"{n:09}.{suffix}" for n in range(3) for suffix in ("depth.png", "jpg", "json")]


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (PARTS, "such as 000000000.depth.png beside 000000000.jpg"),
        ([name.replace("00000000", "a/b") for name in PARTS], "such as a/b0.depth.png beside a/b0.jpg"),
        (["000000000.jpg", "000000000.png"], "such as 000000000.png beside 000000000.jpg"),
        ([f"{n:09}.{side}.jpg" for n in range(3) for side in ("left", "right")], None),
        (["shot.0001.png", "shot.0002.png"], None),
    ],
)
def test_all_images_of_other_programs_tars_are_listed_and_parts_of_a_key_are_named(tmp_path: Path, names, listed):
    files = tar_of(tmp_path / "a.tar", names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        members = find_members(str(tmp_path / "a.tar"), SUFFIXES)
    assert [*members] == [name for name in names if name.endswith(SUFFIXES)]
    assert all(member.read() == files[name] for name, member in members.items())
    messages = [str(one.message) for one in caught]
    assert len(messages) == (listed is not None) and all(listed in message for message in messages), messages


def test_joined_tars_are_read_to_the_end_and_equal_names_are_numbered(tmp_path: Path):
    names = ["000000000.jpg", "1.jpg"]
    first, second = tar_of(tmp_path / "a.tar", names), tar_of(tmp_path / "b.tar", ["x.txt", *names])
    assert first["1.jpg"] != second["1.jpg"]
    joined, parts = tmp_path / "joined.tar", [(tmp_path / f"{name}.tar").read_bytes() for name in "aba"]
    joined.write_bytes(b"".join(parts))
    members = find_members(str(joined), SUFFIXES)
    assert [*members] == [*names, *(f"{name}#{number}" for number in (2, 3) for name in names)]
    expected = [*first.values(), *(second[name] for name in names), *first.values()]
    assert [member.read() for member in members.values()] == expected
    for content in (parts[0] + b"x" * 700, parts[0] + parts[1][:700], parts[0] + parts[1][:2] + b"x" * 510):
        joined.write_bytes(content)
        with pytest.raises(UnreadableFileError, match=r"^[^\n]*joined\.tar[^\n]+(damaged|cut)[^\n]+$"):
            find_members(str(joined), SUFFIXES)


def test_links_have_the_content_of_their_file_and_lost_ones_are_named(tmp_path: Path):
    files = tar_of(tmp_path / "a.tar", ["a/1.jpg"])
    links = [("a/2.jpg", "1.jpg", tarfile.SYMTYPE), ("3.jpg", "./a/2.jpg", tarfile.SYMTYPE)]
    links += [("b/4.jpg", "../5.jpg", tarfile.SYMTYPE), ("5.jpg", "a/1.jpg", tarfile.LNKTYPE)]
    lost = [("6.jpg", "/data/6.jpg", tarfile.SYMTYPE), ("7.jpg", "8.jpg", tarfile.SYMTYPE)]
    lost += [("8.jpg", "7.jpg", tarfile.SYMTYPE)]
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        for name, target, kind in links + lost:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, target
            tar.addfile(header)
    with pytest.warns(
        UserWarning, match=r"a\.tar: 3 links to no image of this tar .* 6\.jpg, a link to /data/6\.jpg\."
    ):
        members = find_members(str(tmp_path / "a.tar"), SUFFIXES)
    assert [*members] == ["a/1.jpg", *(name for name, _, _ in links)]
    assert {member.read() for member in members.values()} == {files["a/1.jpg"]}


def test_damaged_tar_is_named_wherever_it_is_cut(tmp_path: Path):
    path = tmp_path / "a.tar"
    tar_of(path, ["1.jpg", "2.txt", "3.png"])
    data = path.read_bytes()
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512  # of the last content
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    damaged = [data[:cut] for cut in (*range(0, end, 256), end)]
    damaged += [data[:second] + b"x" + data[second + 1 :], data[:second] + bytes(100) + data[second + 100 :]]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UnreadableFileError, match=r"^[^\n]*a\.tar[^\n]+(damaged|cut)[^\n]+$"):
            find_members(str(path), SUFFIXES)
    path.write_bytes(data[: end + 512])
    assert [*find_members(str(path), SUFFIXES)] == ["1.jpg", "3.png"]
    with pytest.raises(UnreadableFileError, match=r"none\.tar: there is no such tar file"):
        find_members(str(tmp_path / "none.tar"), SUFFIXES)
