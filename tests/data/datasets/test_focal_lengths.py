"""Where the focal lengths of a depth data set come from, in which order, and errors."""

import json

import pytest
from PIL import ExifTags, Image

from densevit.data.datasets.depth_maps import DepthMaps
from densevit.errors import DataError
from tests.data.datasets.conftest import MILLIMETRES

FILES = {  # name: content beside the images, of which the first is a.jpg
    "images/focal.csv": "image,focal\na.jpg,10\nb.jpg,20\n",
    "images/focal.json": json.dumps({"a.jpg": 10, "b.jpg": 20}),
    "train.txt": "images/a.jpg labels/a.png 10\nimages/b.jpg labels/b.png 20.0\n",
}


@pytest.fixture
def opened(tmp_path, write, depth):
    """The focal lengths of images a and b with these files and options; EXIF: of 35 mm film, of a and b."""

    def opened(files=(), exif=(0, 0), **options):
        for name, film in zip("ab", exif, strict=True):
            path, tags = write(f"images/{name}.jpg"), Image.Exif()
            tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = film
            Image.new("RGB", (4, 3)).save(path, exif=tags if film else b"")
            depth(f"labels/{name}.png", MILLIMETRES)
        for file, text in dict(files).items():
            (tmp_path / file).write_text(text)
        options |= {"list_file": "train.txt"} if "train.txt" in dict(files) else {}
        options = {"scale": 0.001, "images": {"train": "images", "val": "images"}, "labels": "labels", **options}
        dataset = DepthMaps("train", root=str(tmp_path), **options)
        return [dataset[i]["targets"].get("focal") for i in range(len(dataset))]

    return opened


@pytest.mark.parametrize(
    ("files", "options", "focals"),
    [
        *((dict([item]), {}, [10, 20]) for item in FILES.items()),
        ({"train.txt": FILES["train.txt"], "images/focal.csv": "a.jpg,1\nb.jpg,2"}, {"focal": 3.0}, [10, 20]),
        ({"images/focal.csv": "b.jpg,2"}, {"focal": 525.0}, [525, 2]),
        ({}, {"focal": 525.0, "exif": (36, 36)}, [525, 525]),
        ({}, {"exif": (36, 0)}, [36 * 5 / 43.26661531, None]),
        ({}, {"exif": (0, 36)}, [None, None]),  # the first image has none
        ({}, {}, [None, None]),
    ],
    ids=str,
)
def test_sources(files, options, focals, opened):
    assert opened(files, **options) == pytest.approx(focals)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            {"images/focal.csv": "a.jpg,1"},
            {},
            r"b\.jpg has no focal length, and 1 of 2 images have.*data\.focal=PIXELS",
        ),
        ({"images/focal.csv": "a.jpg"}, {}, r"focal\.csv: .*expected .*NAME,PIXELS"),
        ({"images/focal.json": "[3]"}, {}, r"focal\.json: .*expected .*\"NAME\": PIXELS"),
    ],
)
def test_errors(files, options, message, opened):
    with pytest.raises(DataError, match=message):
        opened(files, **options)
