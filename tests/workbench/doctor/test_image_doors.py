"""`densevit doctor` on images of several kinds: proposed keys, the same pixels, and no used file reported."""

import json
from pathlib import Path

import numpy as np
import pytest

import densevit
from tests.data.image_sources import SOURCES, write_coco

PROPOSED = {
    "photo": "",
    "bands": "[band1, band2, band3, band4]",
    "gaps by a tag": "[band1, band2]",
    "exr": "[red, nir]",
    "a file per channel": "{red: _red, nir: _nir, swir: _swir}",
}


@pytest.mark.parametrize("kind", PROPOSED)
def test_each_kind_of_images(kind, tmp_path):
    source = SOURCES[kind]
    written = write_coco(source, tmp_path)
    diagnosis = densevit.doctor(tmp_path)
    proposals = [one for one in diagnosis.findings if one.title == "images with other channels than RGB of 8 bits"]
    assert [text for one in proposals for text in one.examples if text.startswith("data.channels")] == (
        [f"data.channels: {PROPOSED[kind]}"] if PROPOSED[kind] else []
    )
    named = densevit.doctor(tmp_path, [f"data.{key}={json.dumps(value)}" for key, value in source.keys.items()])
    for found in (diagnosis, named):
        titles = {one.title for one in found.findings if one not in proposals}
        assert not any("no json names" in title or "cannot be" in title or "unreadable" in title for title in titles)
        assert ("pixels without data by the files' tag GDAL_NODATA" in titles) == (kind == "gaps by a tag")
        assert found.splits["train"].opened == 2
    values = named.splits["train"].channel_values
    if kind != "photo":
        train = [pixels for path, pixels in written.items() if "train" in Path(path).parts]
        np.testing.assert_array_equal(values.low, [np.nanmin(one, axis=(0, 1)) for one in train])
        np.testing.assert_array_equal(values.high, [np.nanmax(one, axis=(0, 1)) for one in train])
