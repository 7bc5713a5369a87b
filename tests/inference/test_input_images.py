"""The images that the arguments of `densevit predict` name."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from densevit.errors import DensevitError
from densevit.inference.image_inputs import as_sample
from densevit.inference.input_images import find_images

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
    (photos / "trip [1].jpg").touch()
    assert paths("photos/trip [1].jpg") == ["photos/trip [1].jpg"]
    Path("0").mkdir()
    Path("0/1.jpg").touch()
    Path("7").touch()
    assert paths("0", "7") == ["0/1.jpg", "7"], "no cameras"


def test_files_of_folders_and_patterns_are_not_looked_up(photos: Path, monkeypatch: pytest.MonkeyPatch):
    """Only links are: their types are not in the folder."""
    many = Path("many/below")
    many.mkdir(parents=True)
    for n in range(100):
        (many / f"{n}.jpg").touch()
    (many / "link.png").symlink_to("0.jpg")
    Path("empty").mkdir()
    for broken, target in (("none.png", "none.jpg"), ("loop.png", "loop.png"), ("folder.png", "../../empty")):
        (many / broken).symlink_to(target)
    stat, looked_up = os.stat, list[Path]()

    def counted(path: Any, *given: Any, **options: Any) -> os.stat_result:
        looked_up.append(path)
        return stat(path, *given, **options)

    monkeypatch.setattr("os.stat", counted)
    expected = sorted(f"many/below/{name}" for name in ("link.png", *(f"{n}.jpg" for n in range(100))))
    for source in ("many/below", "many/below/*", "many/**/*", "many/*/*.[jp]*"):
        looked_up.clear()
        assert paths(source) == expected and len(looked_up) < 20


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
    if "streams" in message:
        with pytest.raises(DensevitError, match="streams are not supported"):
            as_sample(source, 0)


def test_urls_are_images_with_names_of_their_own():
    coco, other = "https://a.org/val/000000000139.jpg", "http://b.org/x/street.png?size=2"
    found = find_images([coco, other, other, "https://c.org/street.png", "https://d.org/", "HTTPS://e.org/%2e%2e"])
    assert [image.url for image in found] == [
        coco, other, "https://c.org/street.png", "https://d.org/", "HTTPS://e.org/%2e%2e",
    ]  # fmt: skip
    assert [image.file_name for image in found] == [image.url for image in found]
    assert [image.name for image in found] == ["000000000139", "b.org-street", "c.org-street", "d", "%2e%2e"]
    assert [image.image_id for image in found][:3] == [139, other, "https://c.org/street.png"]
    long = find_images([f"https://a.org/{'x' * 999}.jpg"])[0]
    assert len(long.name) == 100 and long.path.suffix == ".jpg"
