"""densevit/data/io/exif.py: focal lengths by hand from the tags that cameras write."""

import io
import math

import pytest
from PIL import ExifTags, Image

from densevit.data.io.exif import exif_focal

TAGS = ExifTags.Base
PLANE = {TAGS.FocalLength: 50.0, TAGS.FocalPlaneXResolution: 1000.0, TAGS.FocalPlaneResolutionUnit: 3}


@pytest.mark.parametrize(
    ("tags", "focal"),
    [
        ({TAGS.FocalLengthIn35mmFilm: 28}, 28 * 500 / math.hypot(36, 24)),  # the diagonal of 400 x 300 pixels
        (PLANE, 5000.0),  # 50 mm, 100 pixels per millimetre
        ({**PLANE, TAGS.FocalPlaneResolutionUnit: 2}, 50 * 1000 / 25.4),
        ({**PLANE, TAGS.ExifImageWidth: 1600}, 1250.0),  # taken at four times the width
        ({**PLANE, TAGS.ExifImageWidth: 1600, TAGS.ExifImageHeight: 1200}, 1250.0),
        ({**PLANE, TAGS.ExifImageWidth: 1200, TAGS.ExifImageHeight: 1600}, 1250.0),  # the image was turned since
        ({TAGS.FocalLength: 50.0}, None),
        ({TAGS.FocalLengthIn35mmFilm: 0}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_focal_lengths_by_hand(tags, focal, orientation, tmp_path):
    exif = Image.Exif()
    exif[TAGS.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif).update(tags)
    Image.new("RGB", (400, 300)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        for source in (tmp_path / "a.jpg", (tmp_path / "a.jpg").read_bytes(), image):
            assert exif_focal(source) == pytest.approx(focal)


def test_other_content_has_none(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    content = io.BytesIO()
    Image.new("RGB", (4, 3)).save(content, "png")
    for source in (tmp_path / "a.jpg", tmp_path / "none.jpg", content.getvalue(), content.getvalue()[:20]):
        assert exif_focal(source) is None
