"""The images that the arguments of `densevit predict` name: files, folders, patterns, URLs, lists, jsons and tars."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densevit.channels import RGB
from densevit.errors import DensevitError
from densevit_batch.image_listing import find_images
from tests.data.coco_folder import noise
from tests.written_files import save_image, write_text

pytestmark = pytest.mark.usefixtures("cwd")

FILES = ("b.jpg", "a.PNG", "notes.md", "._b.jpg", "trip/1.jpg", "trip/2.jpg", "home/1.jpg", "home/000139.jpeg")


@pytest.fixture
def photos(cwd: Path) -> Path:
    for name in FILES:
        write_text(cwd / "photos" / name, "")
    (cwd / "photos" / "folder.jpg").mkdir()
    return cwd / "photos"


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
        write_text(photos / name, "")
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


# ---- lists, jsons and tars ----


def image(path: str, seed: int = 0) -> None:
    save_image(Path(path), noise(seed, 6, 8))


def described(*sources: str, stdin: str = "") -> list[tuple[str, str, int | str]]:
    return [(image.file_name, image.name, image.image_id) for image in find_images(sources, stdin=stdin)]


def tar_of(path: str, files: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file)


def coco(path: str, images: Any) -> str:
    return str(write_text(Path(path), json.dumps({"images": images, "annotations": [], "categories": []})))


def test_a_text_file_is_read_like_stdin():
    image("photos/1.jpg")
    image("more/2.png")
    image("5.png")
    tar_of("a.tar", ["5.png"])
    lines = "photos\r\n\nnone/1.jpg\nmore/*.png\na.tar\nhttps://a.org/3.jpg\nnone\nother.txt\n"
    Path("names.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    Path("other.txt").write_text("photos\n")
    expected = [
        ("photos/1.jpg", "photos-1", "photos/1.jpg"),
        ("none/1.jpg", "none-1", "none/1.jpg"),
        ("more/2.png", "2", 2),
        ("a.tar/5.png", "5", 5),
        ("https://a.org/3.jpg", "3", 3),
        ("none", "none", "none"),  # reported when it is read
        ("other.txt", "other", "other.txt"),  # a list in a list is not read
    ]
    assert (described("names.txt"), described("-", stdin=f"\ufeff{lines}")) == (expected, expected)


def test_images_of_a_tar_are_those_of_its_files():
    for n, name in enumerate(("set/a/000139.jpg", "set/a/cat.png", "set/b/cat.png")):
        image(name, n)
    tar_of("set.tar", ["set"])
    tar_of("other.tar", ["set/b/cat.png"])
    assert sorted(described("set.tar")) == [
        ("set.tar/set/a/000139.jpg", "000139", 139),
        ("set.tar/set/a/cat.png", "a-cat", "set.tar/set/a/cat.png"),
        ("set.tar/set/b/cat.png", "b-cat", "set.tar/set/b/cat.png"),
    ]
    found = find_images(["*.tar", "set.tar"])
    assert len({one.name for one in found}) == len({one.image_id for one in found}) == len(found) == 4
    for one in found:
        [file] = find_images([one.file_name.partition("/")[2]])
        np.testing.assert_array_equal(one.read(RGB), file.read(RGB))


def test_label_maps_of_a_tar_are_no_images():
    """Files with one name up to the first dot are a sample of WebDataset."""
    images = ["set/1.jpg", "set/2.png", "set/clip.v1.jpg", "set/clip.v2.jpg", "else/3.png", "set/3.png"]
    for n, name in enumerate((*images, *["set/1.png", "set/1.seg.png", "set/2.instance.png"])):
        image(name, n)
    tar_of("labels.tar", ["set", "else"])
    with pytest.warns(
        UserWarning, match=r"^labels\.tar: 3 files such as set/.*left out as label maps.* unpack the tar\."
    ):
        names = [name for name, _, _ in described("labels.tar")]
    assert sorted(names) == sorted(f"labels.tar/{name}" for name in images)


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("set/list.json", "set"),
        ("coco/annotations/instances_val2017.json", "coco/val2017"),
        ("set/train.json", "set/images/train"),
    ],
)
def test_ids_of_a_coco_json_are_kept_and_the_first_image_is_searched_for(file: str, images: str):
    image(f"{images}/a/7.jpg")
    coco(file, [{"id": 12, "file_name": "a/7.jpg"}, {"id": 3, "file_name": "8.jpg"}, {"id": "x", "file_name": "8.jpg"}])
    assert described(file) == [
        (f"{images}/a/7.jpg", "7", 12),
        (f"{images}/8.jpg", f"{Path(images).name}-8", 3),
        (f"{images}/8.jpg", f"{Path(images).name}-8-2", "x"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "`images` is missing or empty"),
        ([{"id": 1}], "holds a list; expected COCO's object of images"),
        ({"images": [{"id": 1}]}, "image 1 has no `file_name`"),
        ({"images": [{"id": 1, "file_name": f"{n}.jpg"} for n in range(2)]}, "id 1 occurs twice, for 0.jpg and 1.jpg"),
        ("{", "is not valid json"),
    ],
)
def test_error_of_a_json_names_file_and_image(content: Any, message: str):
    Path("list.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DensevitError, match=rf"^list\.json[^\n]*{re.escape(message)}[^\n]*$"):
        find_images(["list.json"])
