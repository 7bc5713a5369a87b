from pathlib import Path

import pytest

from densevit.cli.input_images import find_images
from densevit.errors import DensevitError
from densevit.inference.image_inputs import as_sample


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        "._b.jpg",
        "trip/1.jpg",
        "trip/2.jpg",
        "home/1.jpg",
        "home/000139.jpeg",
    ):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "photos" / "folder.jpg").mkdir()
    return tmp_path / "photos"


def paths(*sources: str) -> list[str]:
    return [image.path.as_posix() for image in find_images(sources)]


def test_files_folders_and_patterns(photos: Path):
    assert paths("photos/trip/2.jpg") == ["photos/trip/2.jpg"]
    assert paths("photos/notes.txt") == ["photos/notes.txt"]  # named explicitly, so reading decides
    assert paths("photos") == ["photos/a.PNG", "photos/b.jpg"]  # neither hidden files nor subfolders
    assert paths("photos/*/1.*") == ["photos/home/1.jpg", "photos/trip/1.jpg"]
    assert len(paths("photos/**/*")) == 6
    assert paths(str(photos / "trip")) == [f"{photos.as_posix()}/trip/1.jpg", f"{photos.as_posix()}/trip/2.jpg"]


def test_images_are_unique_in_the_order_of_sources(photos: Path):
    assert paths("photos/trip", "photos", "./photos/trip/1.jpg", "photos/*.jpg") == [
        "photos/trip/1.jpg",
        "photos/trip/2.jpg",
        "photos/a.PNG",
        "photos/b.jpg",
    ]


def test_brackets_in_an_existing_file_name_are_literal(photos: Path):
    (photos / "trip [1].jpg").touch()
    assert paths("photos/trip [1].jpg") == ["photos/trip [1].jpg"]


def test_names_are_unique_across_folders(photos: Path):
    for name in ("trip/1.png", "other/B.jpg", "other/home-1.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    found = find_images(["photos/**/*"])
    assert {image.path.relative_to("photos").as_posix(): image.name for image in found} == {
        "a.PNG": "a",
        "b.jpg": "photos-b",
        "home/000139.jpeg": "000139",
        "home/1.jpg": "home-1",
        "other/B.jpg": "other-B",
        "other/home-1.jpg": "home-1-2",
        "trip/1.jpg": "trip-1",
        "trip/1.png": "trip-1-2",
        "trip/2.jpg": "2",
    }


def test_image_ids_are_unique_and_numeric_if_names_are(photos: Path):
    found = {image.path.relative_to("photos").as_posix(): image.image_id for image in find_images(["photos/**/*"])}
    assert found == {
        "a.PNG": "a.PNG",
        "b.jpg": "b.jpg",
        "home/000139.jpeg": 139,
        "home/1.jpg": "photos/home/1.jpg",
        "trip/1.jpg": "photos/trip/1.jpg",
        "trip/2.jpg": 2,
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photos/none.jpg", "photos/none.jpg: there is no such file or folder"),
        ("photos/*.webp", r"photos/\*.webp: the pattern matches no image"),
        ("empty", "empty: no images in this folder; expected .jpg"),
        ("above", r"subfolders, use 'above/\*\*/\*.\*'"),
    ],
)
def test_source_without_images_raises(photos: Path, source: str, message: str):
    Path("empty").mkdir()
    Path("above/below").mkdir(parents=True)
    Path("above/below/1.jpg").touch()
    with pytest.raises(DensevitError, match=message):
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
    long = find_images([f"https://a.org/{'x' * 999}.jpg"])[0]
    assert len(long.name) == 100 and long.path.suffix == ".jpg"


@pytest.mark.parametrize(
    "source", ["rtsp://a.org/1", "RTMP://a.org", "udp://@239.0.0.1:1234", "0", "webcam", "/dev/video0"]
)
def test_streams_are_an_error_with_the_fix(source: str, photos: Path):
    with pytest.raises(DensevitError, match=rf"^{source}: streams are not supported.*Fix: save frames.*ffmpeg"):
        find_images([source])
    with pytest.raises(DensevitError, match=rf"^{source}: streams are not supported"):
        as_sample(source, 0)


def test_files_named_like_cameras_are_files(photos: Path):
    Path("0").mkdir()
    Path("0/1.jpg").touch()
    Path("7").touch()
    assert paths("0", "7") == ["0/1.jpg", "7"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://a.org/clip.mp4", "videos are not read from URLs. Fix: download the video"),
        ("ftp://a.org/a.jpg", "only URLs of http and https are read. Fix: download the image"),
        ("s3://bucket/a.jpg", "only URLs of http and https are read"),
    ],
)
def test_other_addresses_are_an_error(source: str, message: str):
    with pytest.raises(DensevitError, match=f"^{source}: {message}"):
        find_images([source])
