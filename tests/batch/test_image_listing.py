"""The images that the arguments of `densevit predict` name."""

import re
from pathlib import Path

import pytest

from densevit.errors import DensevitError
from densevit_batch.image_listing import find_images

FILES = ("b.jpg", "a.PNG", "notes.md", "._b.jpg", "trip/1.jpg", "trip/2.jpg", "home/1.jpg", "home/000139.jpeg")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "photos" / "folder.jpg").mkdir()
    return tmp_path / "photos"


def paths(*sources: str) -> list[str]:
    return [image.path.as_posix() for image in find_images(sources)]


def test_files_folders_and_patterns(photos: Path):
    assert paths("photos/trip/2.jpg") == ["photos/trip/2.jpg"]
    assert paths("photos/notes.md") == ["photos/notes.md"]  # named explicitly, so reading decides
    assert paths("photos") == ["photos/a.PNG", "photos/b.jpg"]  # neither hidden files nor subfolders
    assert paths("photos/*/1.*") == ["photos/home/1.jpg", "photos/trip/1.jpg"]
    assert len(paths("photos/**/*")) == 6
    assert paths("photos/trip", "photos", "./photos/trip/1.jpg", "photos/*.jpg") == [
        *(f"photos/{name}" for name in ("trip/1.jpg", "trip/2.jpg", "a.PNG", "b.jpg"))
    ], "each image once"


def test_names_and_ids_are_unique_across_folders(photos: Path):
    for name in ("trip/1.png", "other/B.jpg", "other/home-1.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    found = {image.path.relative_to("photos").as_posix(): image for image in find_images(["photos/**/*"])}
    assert {path: (image.name, image.image_id) for path, image in found.items()} == {
        "a.PNG": ("a", "a.PNG"),
        "b.jpg": ("photos-b", "b.jpg"),
        "home/000139.jpeg": ("000139", 139),
        "home/1.jpg": ("home-1", "photos/home/1.jpg"),
        "other/B.jpg": ("other-B", "B.jpg"),
        "other/home-1.jpg": ("home-1-2", "home-1.jpg"),
        "trip/1.jpg": ("trip-1", "photos/trip/1.jpg"),
        "trip/1.png": ("trip-1-2", "1.png"),
        "trip/2.jpg": ("2", 2),
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photos/none.jpg", "there is no such file or folder"),
        ("photos/*.webp", "the pattern matches no image"),
        ("empty", "no images in this folder"),
        ("above", "above/**/*.*"),
        ("rtsp://a.org/1", "streams are not supported"),
        ("https://a.org/clip.mp4", "videos are not read from URLs"),
        ("ftp://a.org/a.jpg", "only http and https URLs"),
    ],
)
def test_source_without_images_is_an_error(photos: Path, source: str, message: str):
    Path("empty").mkdir()
    Path("above/below").mkdir(parents=True)
    Path("above/below/1.jpg").touch()
    with pytest.raises(DensevitError, match=rf"^{re.escape(source)}: .*{re.escape(message)}"):
        find_images(["photos", source])


def test_urls_are_images_with_names_of_their_own():
    coco, other = "https://a.org/val/000000000139.jpg", "http://b.org/x/street.png?size=2"
    found = find_images([coco, other, other, "https://c.org/street.png", "https://d.org/", "HTTPS://e.org/%2e%2e"])
    assert [image.url for image in found] == [
        coco, other, "https://c.org/street.png", "https://d.org/", "HTTPS://e.org/%2e%2e",
    ]  # fmt: skip
    assert [image.file_name for image in found] == [image.url for image in found]
    assert [image.name for image in found] == ["000000000139", "b.org-street", "c.org-street", "d", "%2e%2e"]
    assert [image.image_id for image in found][:3] == [139, other, "https://c.org/street.png"]
