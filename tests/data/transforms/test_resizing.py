"""Transforms, resizing and augmentation. Boxes are compared with the pixels of the image."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from densevit.config import DataSection
from densevit.data.build import build_transforms
from densevit.data.transforms.augmentation import Augmentation
from densevit.data.transforms.crop import Crop
from densevit.data.transforms.detr import Detr
from densevit.data.transforms.fixed import Fixed
from densevit.data.transforms.resizing import resize_image
from densevit.errors import DataError
from densevit.interfaces import IGNORE, Frame, Sample, Transforms
from densevit.targets import Depth, InstanceMasks, RunLengthMasks

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]], np.uint8)


def section(**keys: Any) -> DataSection:
    return DataSection(name="scenes", **keys)


def without_colours(transforms: Transforms) -> Transforms:
    transforms.recoloring = "none"
    return transforms


def painted(height: int = 120, width: int = 160, seed: int = 0) -> Sample:
    """Five rectangles in five colours on black; object k has the label k, its mask, and the depth k + 1."""
    rng = np.random.default_rng(seed)
    image, semantic = np.zeros((height, width, 3), np.uint8), np.full((height, width), IGNORE, np.uint8)
    depth, masks, boxes = np.zeros((height, width), np.float32), [], []
    for k, color in enumerate(COLORS):
        w, h = width // 6, int(rng.integers(height // 4, height // 2))
        x, y = 2 + k * (width // 5), int(rng.integers(0, height - h))
        boxes.append([x, y, x + w, y + h])
        inside = np.s_[y : y + h, x : x + w]
        image[inside], semantic[inside], depth[inside] = color, k, k + 1
        masks.append(semantic == k)
    return {
        "image": torch.from_numpy(image).permute(2, 0, 1),
        "targets": {
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.arange(5),
            "masks": RunLengthMasks.from_dense(masks, (height, width)),
            "semantic": torch.from_numpy(semantic),
            "depth": torch.from_numpy(depth),
            "area": torch.ones(5),
            "iscrowd": torch.zeros(5, dtype=torch.bool),
            "image_id": 7,
        },
    }


def test_result_depends_on_the_generator_only_and_the_input_is_not_modified():
    sample, untouched = painted(), painted()
    for name, size in (("resize", 96), ("fixed", 128), ("crop", 90)):
        (train, evaluation), (again, _) = (build_transforms(section(transforms=name, image_size=size)) for _ in "ab")
        first = train(sample, np.random.default_rng(3))
        np.random.seed(1)
        torch.manual_seed(1)
        again(sample, np.random.default_rng(5))
        second = again(sample, np.random.default_rng(3))
        assert torch.equal(first["image"], second["image"])
        boxes = {str(train(sample, np.random.default_rng(seed))["targets"]["boxes"]) for seed in range(20)}
        assert len(boxes) > 6 or name == "resize"
        plain = evaluation(sample)
        if name == "resize":  # does not augment
            assert torch.equal(first["image"], plain["image"]) and boxes == {str(plain["targets"]["boxes"])}
    assert torch.equal(sample["image"], untouched["image"]) and sample["targets"].keys() == untouched["targets"].keys()
    for key in ("boxes", "labels", "semantic", "depth"):
        assert torch.equal(sample["targets"][key], untouched["targets"][key])


def test_flips_and_colours_are_independent():
    """One random stream for all steps: with a copy for each, recolouring would coincide with flipping."""
    sample = painted(100, 100)
    train, seen = build_transforms(section(image_size=100))[0], []
    for seed in range(120):
        result = train(sample, np.random.default_rng(seed))
        left = result["targets"]["boxes"][:, 0].tolist()
        background = result["targets"]["semantic"] == IGNORE
        colors = torch.cat([result["image"][:, result["targets"]["semantic"] == k].amax(dim=1) for k in range(5)])
        original = torch.from_numpy(COLORS).flatten()
        recolored = not torch.equal(colors, original) or result["image"][:, background].float().mean() > 40
        seen.append((left == sorted(left), bool(recolored)))
    counts = {pair: seen.count(pair) for pair in ((False, False), (False, True), (True, False), (True, True))}
    of_flipped, of_plain = (counts[way, True] / (counts[way, True] + counts[way, False]) for way in (False, True))
    assert abs(of_flipped - of_plain) < 0.25, counts


# ---- evaluation ----


@pytest.mark.parametrize(
    ("keys", "size", "expected"),
    [
        ({"image_size": 320}, (480, 640), (240, 320)),
        ({"image_size": 320}, (2, 2000), (1, 320)),
        ({"image_size": (256, 512)}, (480, 640), (256, 341)),
        ({"image_size": (256, 512)}, (100, 640), (80, 512)),
        ({"image_size": None}, (33, 55), (33, 55)),
        ({"transforms": "detr"}, (480, 640), (800, 1066)),  # sizes from the authors' code
        ({"transforms": "detr"}, (640, 427), (1199, 800)),
        ({"transforms": "detr"}, (300, 640), (625, 1333)),
        ({"transforms": "detr", "image_size": 480}, (300, 640), (375, 800)),
        ({"transforms": {"name": "crop", "short_side": 512}, "image_size": 512}, (480, 640), (512, 683)),  # 682.67
        ({"transforms": {"name": "crop", "short_side": 512}, "image_size": 512}, (100, 500), (410, 2048)),  # * 4.096
        ({"transforms": "crop", "image_size": 16}, (33, 55), (33, 55)),
    ],
)
def test_evaluation_sizes(keys, size, expected):
    evaluation = build_transforms(section(**keys))[1]
    assert evaluation.size_of(*size) == expected
    result = evaluation({"image": torch.zeros((3, *size), dtype=torch.uint8), "targets": {"image_id": 1}})
    assert result["targets"]["size"] == expected
    assert result["targets"]["original_size"] == size
    if keys.get("image_size") != (256, 512):
        assert result["image"].shape == (3, *expected)


def test_an_image_of_the_right_size_is_not_resampled():
    sample = painted()
    for keys in ({"image_size": 160}, {"image_size": None}, {"image_size": (120, 160)}):
        result = build_transforms(section(**keys))[1](sample)
        assert torch.equal(result["image"], sample["image"])
        for key in ("boxes", "semantic", "depth"):
            assert torch.equal(result["targets"][key], sample["targets"][key])
        assert np.array_equal(np.asarray(result["targets"]["masks"]), np.asarray(sample["targets"]["masks"]))
    twice = build_transforms(section(image_size=320))[1](sample)["targets"]["boxes"]
    assert torch.equal(twice, 2 * sample["targets"]["boxes"])


def test_letterbox_is_padded_and_size_excludes_padding():
    train, evaluation = build_transforms(section(image_size=(150, 100)))
    bright: Sample = {"image": torch.full((3, 40, 80), 200, dtype=torch.uint8), "targets": {"image_id": 1}}
    result = evaluation(bright)
    assert evaluation.canvas == (150, 100)
    assert result["targets"]["size"] == (50, 100)
    assert result["image"].shape == (3, 150, 100)
    assert (result["image"][:, :50] == 200).all() and (result["image"][:, 50:] == 0).all()
    for seed in range(10):
        assert train(bright, np.random.default_rng(seed))["image"].shape == (3, 150, 100)


# ---- the transforms ----


def test_fixed_has_a_small_zoom_range():
    fixed, rng = Fixed(320), np.random.default_rng(0)
    frames = [fixed.training_frame(480, 640, rng) for _ in range(1000)]
    plain = [frame for frame in frames if frame == ((0, 0, 480, 640), (240, 320))]
    assert 0.4 < len(plain) / len(frames) < 0.6
    for (top, left, bottom, right), (height, width) in frames:
        assert 0 <= top < bottom <= 480 and 0 <= left < right <= 640
        zoom = (width / (right - left)) / (320 / 640)
        assert 0.79 <= zoom <= 1.26
        assert width <= 320 and height <= 240


def test_images_of_extreme_aspect_are_resized():
    for transforms in (
        Detr(None),
        Fixed(64),
        Fixed((64, 32)),
        Crop(64),
        Crop((64, 32), 3),
    ):
        rng = np.random.default_rng(0)
        for height, width in ((1, 1), (1, 5000), (5000, 1), (3, 2), (7, 900)):
            for _ in range(50):
                (top, left, bottom, right), size = transforms.training_frame(height, width, rng)
                assert 0 <= top < bottom <= height and 0 <= left < right <= width
                assert min(size) >= 1
            assert min(transforms.evaluation_size(height, width)) >= 1


# ---- degenerate boxes ----


def objects(boxes: list[list[float]], height: int = 50, width: int = 80) -> Sample:
    return {
        "image": torch.zeros((3, height, width), dtype=torch.uint8),
        "targets": {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.arange(len(boxes)), "image_id": 12},
    }


def test_degenerate_boxes_are_handled():
    train, evaluation = build_transforms(section(transforms="detr", image_size=(80, 133)))
    sample = objects(
        [
            [-1e-4, 3, 20, 30],  # just outside
            [60, 40, 80.0001, 50.00001],
            [10, 10, 10, 40],  # no width
            [30, 49, 40, 49],  # no height
            [100, 10, 120, 20],  # elsewhere
            [-30, -30, 0, 0],  # touches a corner
            [5, 5, 5.0001, 5.0001],  # a ten-thousandth of a pixel
            [0, 0, 80, 50],
        ]
    )
    assert evaluation(sample)["targets"]["labels"].tolist() == [0, 1, 6, 7]
    for seed in range(60):
        targets = train(sample, np.random.default_rng(seed))["targets"]
        assert {7} <= set(targets["labels"].tolist()) <= {0, 1, 6, 7}
        height, width = targets["size"]
        assert (targets["boxes"] >= 0).all()
        assert (targets["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert (targets["boxes"][:, 2:] > targets["boxes"][:, :2]).all()


def test_random_boxes_match_the_crop_to_a_thousandth_of_a_pixel():
    """Each resulting box is one of the given ones after the same flip, crop and scale."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(-20, 100, (300, 2))
    boxes = np.hstack([corners, corners + rng.uniform(-1, 60, (300, 2))]).clip(0, [80, 50, 80, 50])
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2] + 0.01).all(axis=1)]
    train = build_transforms(section(transforms="detr", image_size=(80, 133)))[0]
    sample = objects(boxes.tolist())
    for seed in range(40):
        targets = train(sample, np.random.default_rng(seed))["targets"]
        height, width = targets["size"]
        given, got = boxes[targets["labels"].numpy()], targets["boxes"].double().numpy()
        for axis, extent in ((0, width), (1, height)):
            inner = (got[:, axis] > 1e-3) & (got[:, axis + 2] < extent - 1e-3)  # not clipped on this axis
            low, high = given[inner][:, axis], given[inner][:, axis + 2]
            scale = np.median((got[inner][:, axis + 2] - got[inner][:, axis]) / (high - low))
            same, mirrored = got[inner][:, axis] - scale * low, got[inner][:, axis] + scale * high
            assert min(np.ptp(same), np.ptp(mirrored)) < 1e-3
            assert inner.sum() > 5


def test_without_objects_keys_are_empty_and_without_labels_absent():
    train, evaluation = build_transforms(section(image_size=40))
    empty = objects([])
    empty["targets"]["masks"] = RunLengthMasks.from_dense([], (50, 80))
    for targets in (train(empty, np.random.default_rng(0))["targets"], evaluation(empty)["targets"]):
        assert targets["boxes"].shape == (0, 4) and targets["boxes"].dtype == torch.float32
        assert targets["labels"].shape == (0,) and targets["labels"].dtype == torch.int64
        assert targets["masks"].shape == (0, *targets["size"])
    bare: Sample = {"image": torch.zeros((3, 50, 80), dtype=torch.uint8), "targets": {"image_id": "a"}}
    for result in (train(bare, np.random.default_rng(0)), evaluation(bare)):
        assert result["targets"].keys() == {"image_id", "size", "original_size"}
    crop = build_transforms(section(transforms="detr", image_size=(80, 133)))[0]
    corner = objects([[0, 0, 2, 2]])
    counts = [len(crop(corner, np.random.default_rng(seed))["targets"]["boxes"]) for seed in range(60)]
    assert set(counts) == {0, 1}
    lost = crop(corner, np.random.default_rng(counts.index(0)))["targets"]
    assert lost["boxes"].shape == (0, 4) and lost["labels"].shape == (0,) and lost["labels"].dtype == torch.int64


def test_crowds_are_dropped():
    train, evaluation = build_transforms(section(image_size=160))
    sample = painted()
    sample["targets"]["iscrowd"][2] = True
    for result in (train(sample, np.random.default_rng(5)), evaluation(sample)):
        assert 2 not in result["targets"]["labels"]
        assert len(result["targets"]["labels"]) == len(result["targets"]["masks"]) == len(result["targets"]["boxes"])
        assert "iscrowd" not in result["targets"] and "area" not in result["targets"]
    assert len(sample["targets"]["labels"]) == 5


def test_object_without_mask_pixels_is_dropped():
    """An L-shaped object's box can be inside the crop while the object is not."""
    sample = objects([[0, 0, 80, 50]])
    mask = np.zeros((50, 80), bool)
    mask[:, :2] = True
    sample["targets"]["masks"] = RunLengthMasks.from_dense([mask], (50, 80))
    train = build_transforms(section(transforms="detr", image_size=(80, 133)))[0]
    counts = {len(train(sample, np.random.default_rng(seed))["targets"]["boxes"]) for seed in range(60)}
    assert counts == {0, 1}


def test_invalid_plugin_targets_are_named():
    train, evaluation = build_transforms(section(image_size=80))
    bad = objects([[1, 2, float("nan"), 5]])
    short = objects([[1, 2, 3, 5]])
    short["targets"]["labels"] = torch.tensor([1, 2])
    alone = objects([[1, 2, 3, 5]])
    alone["targets"]["labels"] = torch.tensor(1.0)
    for sample, expected in (
        (bad, "image 12: boxes .*not finite"),
        (short, "image 12: .*boxes 1, labels 2"),
        (alone, "image 12: labels is a single.*; expected"),
    ):
        with pytest.raises(DataError, match=expected):
            evaluation(sample)
        with pytest.raises(DataError, match=expected):
            train(sample, np.random.default_rng(0))


# ---- resampling ----


@pytest.mark.parametrize("size", [(41, 59), (7, 9), (93, 60), (1, 1)])
def test_images_are_resized_bilinearly_with_anti_aliasing(size):
    """Noise reveals any other filter. Pillow and torch agree up to rounding."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    resized = resize_image(pixels, size).astype(int)
    pillow = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    exact = functional.interpolate(planes, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    assert np.abs(resized - pillow).max() <= 1
    assert np.abs(resized - exact).max() <= 1.01
    ramp = np.repeat(np.array([[0, 100]], np.uint8)[..., None], 3, axis=2)
    assert resize_image(ramp, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]


def test_transforms_resample_once_bilinear_images_and_nearest_labels():
    rng = np.random.default_rng(0)
    pixels, labels = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((40, 60, 3), (40, 60)))
    image, semantic = Image.fromarray(pixels), Image.fromarray(labels)
    bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    sample: Sample = {
        "image": torch.from_numpy(pixels).permute(2, 0, 1),
        "targets": {"semantic": torch.from_numpy(labels), "image_id": 1},
    }
    for keys in (
        {"image_size": 47},
        {"transforms": "detr", "image_size": (31, 90)},
        {"transforms": {"name": "crop", "short_side": 27}, "image_size": 32},
    ):
        result = build_transforms(section(**keys))[1](sample)
        size = result["targets"]["size"][::-1]
        shown = torch.from_numpy(np.array(image.resize(size, bilinear))).permute(2, 0, 1)
        assert (result["image"].int() - shown.int()).abs().max() <= 1
        assert np.array_equal(result["targets"]["semantic"], semantic.resize(size, nearest))
    framed, unflipped = without_colours(Fixed(None)), 0
    framed.training_frame = lambda *given: Frame((3, 5, 33, 51), (24, 37))
    train = Augmentation(framed)
    for seed in range(8):
        result = train(sample, np.random.default_rng(seed))
        window = (5, 3, 51, 33)
        got, found = result["image"].permute(1, 2, 0).numpy().astype(int), result["targets"]["semantic"].numpy()
        if np.array_equal(found, semantic.crop(window).resize((37, 24), nearest)):
            assert np.abs(got - np.asarray(image.crop(window).resize((37, 24), bilinear))).max() <= 1
            unflipped += 1
    assert 0 < unflipped < 8


@pytest.mark.parametrize("size", [(3, 5), (13, 7)])
def test_maps_are_sampled_at_pixel_centres(size):
    depth = np.random.default_rng(0).random((8, 12)).astype(np.float32)
    rows = ((np.arange(size[0]) + 0.5) * 8 / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * 12 / size[1]).astype(int)
    assert np.array_equal(Depth().resize(depth, depth.shape, size), depth[rows][:, columns])
    masks = np.stack([depth > 0.3, depth > 0.6])
    resized = InstanceMasks().resize(RunLengthMasks.from_dense(masks, depth.shape), depth.shape, size)
    assert np.array_equal(np.asarray(resized), masks[:, rows][:, :, columns])


@pytest.mark.integration
def test_albumentations_does_not_check_for_updates():
    code = "import urllib.request, densevit.data.transforms.resizing, sys; assert 'albumentations' not in sys.modules\n"
    code += "urllib.request.OpenerDirector.open = lambda *given, **options: sys.exit('it went to the network')\n"
    code += "from densevit.data.transforms.recoloring import recolored\n"
    code += "recolored('gentle'); assert 'albumentations' in sys.modules"
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
