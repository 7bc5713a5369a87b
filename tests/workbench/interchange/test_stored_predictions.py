"""Predictions of a folder are read as the model returned them, and evaluated as `densevit evaluate` does."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import densevit
from densevit.cli import main, parquet_files
from densevit.cli.input_images import ImageFile
from densevit.cli.prediction_files import PredictionFiles
from densevit.interfaces import LABEL_DIVISOR, Class, Predictions
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes
from densevit_workbench.interchange.prelabels import write_prelabels
from densevit_workbench.interchange.stored_predictions import StoredPredictions, match_files

CLASSES = tuple(Class(name, 3 + n, (n, 9, 9), thing=n < 4) for n, name in enumerate(("a", "[b]", "c", "d", "e", "f")))
HEADS = {
    "people": ("boxes", "labels", "scores", "keypoints"),
    "things": ("boxes", "labels", "scores", "masks", "panoptic"),
    "maps": ("semantic", "depth", "normals"),
    "kind": ("image_class", "image_score", "class_scores"),
}
SIZES = {0: (11, 24), 1: (17, 13), 2: (9, 30), 3: (12, 12)}  # the second image has no object


class Fake:
    """What the reader needs of a model."""

    def __init__(self, heads: tuple[str, ...]) -> None:
        self.classes, self.target_types = dict.fromkeys(heads, CLASSES), dict.fromkeys(heads)


def random_predictions(head: str, image: int) -> Predictions:
    """Values in the form in which models return them."""
    rng, types, found = np.random.default_rng(image), TargetTypes(), {}
    for key in HEADS[head]:
        count = 0 if image == 1 else 3
        value = rng.random(count, np.float32)
        if key != "scores":
            value = types[key].random(SIZES[image], count, len(CLASSES), rng)
        if key == "panoptic":  # numbers of instances begin at 0 for each class, in the order of ids
            value = np.repeat([[-1, 0, 1, LABEL_DIVISOR]], SIZES[image][0], 0).repeat(SIZES[image][1] // 4 + 1, 1)
            value = value[:, : SIZES[image][1]].astype(np.int32)
        if key == "class_scores":
            value[np.argsort(value)[0]] = 0  # files have the five highest of six
        found[key] = torch.from_numpy(np.asarray(value))
    return found


def write(folder: Path, heads: tuple[str, ...], images: list[int], parquet: bool, more_follows: bool = False) -> None:
    files = PredictionFiles(folder, dict.fromkeys(heads, CLASSES), dict.fromkeys(heads, 0.5), parquet=parquet)
    listed = [ImageFile(f"photos/{n}.jpg", f"{n:04}/x.{n}", f"id {n}, \"'" if n else 0, place=n) for n in images]
    files.remaining(listed)
    files.__enter__()
    for file, n in zip(listed, images, strict=True):
        results = {head: random_predictions(head, n) for head in heads}
        pixels = np.zeros((*SIZES[n], 3), np.uint8)
        files.append(files.encode(file, pixels, results if len(heads) > 1 else results[heads[0]], drawn=False))
    error = KeyboardInterrupt if more_follows else None
    files.__exit__(error, None, None)


def write_parts(folder: Path, heads: tuple[str, ...], parquet: bool) -> None:
    """Writes the lists of two parts to folder/parts, and all maps to the folder."""
    for part, images in enumerate(([0, 1], [2, 3])):
        write(folder, heads, images, parquet, more_follows=True)
        for path in [*folder.rglob("images.*"), *folder.rglob("objects.parquet"), *folder.rglob("predictions.*")]:
            if "parts" not in path.parts:
                place = folder / "parts" / f"{part:02}" / path.relative_to(folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.rename(place)
    for path in folder.rglob("panoptic.json"):
        path.unlink()


def check_equal(found: Predictions, expected: Predictions) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(found[key], RunLengthMasks):
            assert found[key].shape == tuple(value.shape)
            np.testing.assert_array_equal(np.asarray(found[key]), value.numpy())
        else:
            assert found[key].dtype == value.dtype, key
            assert torch.equal(found[key], value), key


@pytest.mark.parametrize("heads", [tuple(HEADS), *((head,) for head in HEADS)], ids="-".join)
@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("parts", [False, True])
def test_predictions_are_read_as_they_were_written(heads, parquet, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(parquet_files, "MAX_IMAGES", 3)
    if parts:
        write_parts(tmp_path, heads, parquet)
    else:
        write(tmp_path, heads, [0, 1, 2, 3], parquet)
    stored = StoredPredictions(tmp_path, Fake(heads))
    assert [image["file_name"] for image in stored.images] == [f"photos/{n}.jpg" for n in range(4)]
    for n in (2, 0, 3, 1):
        found = stored.read(stored.images[n])
        assert [*found] == [*heads]
        for head in heads:
            check_equal(found[head], random_predictions(head, n))
    assert stored.heads_with("scores") == {"people", "things"} & {*heads}
