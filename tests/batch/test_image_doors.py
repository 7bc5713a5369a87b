"""Images of each kind have the same pixels in lists and tars, and occur once in folders, patterns and lists."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from densevit.channels import Channels
from densevit_batch.image_listing import find_images
from tests.data.image_sources import SOURCES, same, write_images
from tests.data.io.test_image_doors import channels_of


def _listed(path: Path, channels: Channels) -> object:
    [image] = find_images([str(path.parent)], channels)
    return image.read(channels)


def _tar(path: Path, channels: Channels) -> object:
    with tarfile.open(path.parent / "images.tar", "w") as tar:
        tar.add(path, path.name)
    [image] = find_images([str(path.parent / "images.tar")], channels)
    return image.read(channels)


DOORS: dict[str, Callable[[Path, Channels], object]] = {"list": _listed, "tar": _tar}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", SOURCES)
def test_each_door_gives_the_same_pixels(kind, door, tmp_path):
    source = SOURCES[kind]
    if source.name == "_red.tif" and door == "tar":
        pytest.skip("a file for each channel")
    path = tmp_path / f"0{source.name}"
    expected = source.write(path)
    assert same(DOORS[door](path, channels_of(source, path)), expected)


@pytest.mark.parametrize("kind", SOURCES)
def test_folders_patterns_and_lists_have_each_image_once(kind, tmp_path):
    source = SOURCES[kind]
    written = [path for path in write_images(source, tmp_path, "{split}/{number}") if "train" in path]
    channels, folder = channels_of(source, Path(written[0])), tmp_path / "train"
    (tmp_path / "list.txt").write_text("\n".join(map(str, sorted(folder.iterdir()))))
    several = [str(path) for path in sorted(folder.iterdir())]
    for sources in ([str(folder)], [f"{folder}/*"], [str(tmp_path / "list.txt")], several):
        assert [image.location for image in find_images(sources, channels)] == written
