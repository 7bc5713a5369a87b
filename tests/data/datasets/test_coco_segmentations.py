"""Run-length codes of a COCO json are checked together; each invalid one is named by its position."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from pycocotools import mask as rle

from densevit.data.datasets import coco_segmentations
from densevit.data.datasets.coco_segmentations import Segmentations, pack, packed_segmentation, wrong_codes

SIZE = (9, 14)


def parse(segmentations: Iterable[Any], sizes: Iterable[tuple[int, int]]) -> tuple[Segmentations, dict[int, str]]:
    """The valid segmentations, and by position the reasons why others are invalid."""
    packed, places, reasons = [], [], {}
    for place, (segmentation, size) in enumerate(zip(segmentations, sizes, strict=True)):
        try:
            packed.append(packed_segmentation(segmentation, size))
            places.append(place)
        except ValueError as error:
            reasons[place] = str(error)
    wrong = wrong_codes(pack(packed))
    valid = np.delete(np.arange(len(packed)), list(wrong))
    reasons |= {places[i]: reason for i, reason in wrong.items()}
    return pack(packed)[valid], dict(sorted(reasons.items()))


def test_each_invalid_code_is_named_and_the_others_are_read(monkeypatch):
    monkeypatch.setattr(coco_segmentations, "_CHARACTERS", 20)  # several codes are checked together
    masks = np.random.default_rng(0).random((6, *SIZE)) < np.array([0, 0.1, 0.5, 0.5, 0.9, 1])[:, None, None]
    codes = [rle.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() for mask in masks]
    codes[0], codes[5] = [126], [0, 126]
    wrong = {
        1: ("~~~~", "has a run-length code that is damaged"),
        2: ("PPYo", "has a run-length code that is damaged"),  # without its last character
        4: ("oooooooo0", "has a run-length code that is damaged"),  # a run length of nine characters
        7: ("", "has run lengths of 0 pixels in total; its size has 126"),
        8: ("010", "has run lengths of 1 pixels in total; its size has 126"),
        9: ([130, -4], "has a negative run length, -4"),
        11: ([126, 1], "has run lengths of 127 pixels in total; its size has 126"),
    }
    counts = iter(codes)
    given = [wrong[i][0] if i in wrong else next(counts) for i in range(13)]
    found, reasons = parse([{"size": [*SIZE], "counts": each} for each in given], [SIZE] * 13)
    assert reasons == {place: reason for place, (_, reason) in wrong.items()}
    assert np.array_equal(np.asarray(found.masks(slice(0, 6), SIZE)), masks)


def test_polygons_are_rasterised_as_by_pycocotools_when_they_are_read():
    """Points between, on and beyond pixels; one to three parts, which may overlap; some objects are left out."""
    rng = np.random.default_rng(0)
    objects = [
        [(rng.uniform(-8, 20, 2 * int(rng.integers(3, 9))).round(int(rng.integers(4)))).tolist() for _ in range(parts)]
        for parts in rng.integers(1, 4, 60)
    ]
    found, reasons = parse(objects, [SIZE] * 60)
    valid = [polygons for place, polygons in enumerate(objects) if place not in reasons]
    chosen = np.array([0, *range(3, len(valid))])
    expected = [rle.decode(rle.merge(rle.frPyObjects(valid[place], *SIZE))) for place in chosen]
    for segmentations in (found[chosen], found[chosen].copied()):
        assert np.array_equal(np.asarray(segmentations.masks(slice(0, len(chosen)), SIZE)), np.stack(expected) > 0)
        assert np.array_equal(np.asarray(segmentations.masks(slice(2, 4), SIZE)), np.stack(expected[2:4]) > 0)
    assert len(found[chosen].copied().data) < len(found.data)
    square = [2.0, 2, 9, 2, 9, 8, 2, 8]
    one, other = np.asarray(parse([[square, [3.0, 3, 4, 4]], [square]], [SIZE] * 2)[0].masks(slice(0, 2), SIZE))
    assert one.any() and np.array_equal(one, other), "two points are no polygon"
