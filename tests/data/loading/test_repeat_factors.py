"""Repeat factor sampling (LVIS): detectron2's formula, stochastic rounding, ranks and resumption."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.config import Config, from_mapping
from densevit.data.data_builder import build_data
from densevit.data.loading.repeat_factors import repeat_factors


def by_detectron2(classes: list[list[int]], threshold: float) -> list[float]:
    """RepeatFactorTrainingSampler.repeat_factors_from_category_frequency, image by image."""
    frequency = Counter(c for own in classes for c in set(own))
    factor = {c: max(1.0, math.sqrt(threshold / (n / len(classes)))) for c, n in frequency.items()}
    return [max({factor[c] for c in set(own)}, default=1.0) for own in classes]


def pairs(classes: list[list[int]]) -> np.ndarray:
    return np.array([(image, c) for image, own in enumerate(classes) for c in own], np.int64).reshape(-1, 2)


def test_factors_equal_detectron2():
    rng = np.random.default_rng(0)
    share = np.geomspace(1e-3, 0.7, 40)
    classes = [np.flatnonzero(rng.random(40) < share).tolist() * 2 for _ in range(500)]
    found = repeat_factors(rng.permutation(pairs(classes)), 500, 0.05)
    np.testing.assert_allclose(found, by_detectron2(classes, 0.05), rtol=1e-12)
    assert found.max() > 3 and found.min() == 1
    assert repeat_factors(pairs([[], []]), 2, 0.5).tolist() == [1, 1]
    none = np.array([[3, -1], [7, -1]])  # -1: no class, which is not a rare one
    assert np.array_equal(repeat_factors(np.concatenate([pairs(classes), none]), 500, 0.05), found)


_IMAGES = 20


def config(**data: Any) -> Config:
    heads = {"detection": {"name": "detr"}}
    return from_mapping({"backbone": {"name": "resnet"}, "heads": heads, "data": data, "trainer": {"max_epochs": 1}})


@pytest.fixture
def folder(tmp_path):
    """20 images with class 0; the last one has class 1 too, and the first a crowd of class 2."""
    (tmp_path / "train").mkdir()
    images, objects = [], []
    for k in range(_IMAGES):
        Image.new("RGB", (80, 40)).save(tmp_path / "train" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": 80, "height": 40})
        objects.append({"image_id": k, "category_id": 3})
    objects += [{"image_id": _IMAGES - 1, "category_id": 7}, {"image_id": 0, "category_id": 9, "iscrowd": 1}]
    annotations = [{"id": i, "bbox": [1, 2, 10, 10], **one} for i, one in enumerate(objects)]
    categories = [{"id": i, "name": str(i)} for i in (3, 7, 9)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "val.json").touch()  # so that train is not divided
    return tmp_path


def test_loader_repeats_rare_images_without_crowds(folder):
    data = build_data(config(name="coco", root=str(folder), image_size=32, repeat_factor=0.8, batch_size=1))
    loader = data.train_loader()
    shown = Counter(targets["image_id"] for batch in loader for targets in batch["targets"])
    assert shown == {**dict.fromkeys(range(_IMAGES - 1), 1), _IMAGES - 1: 4}  # sqrt(0.8 / (1 / 20)) = 4
    assert len(loader) == data.batches_per_epoch() == _IMAGES + 3
