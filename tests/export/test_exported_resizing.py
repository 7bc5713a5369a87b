"""Files that resize images inside give the outputs of `predict`, in pixels of the original images."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit import registry
from densevit.channels import RGB
from densevit.data.transforms.sample_resizing import resize_image
from densevit.interfaces import Transforms
from densevit_export import file_comparison
from densevit_export.exported_resizing import Resizing, check_resizing
from densevit_heads.rtdetr.augmentation import Stretch
from tests.data.transforms import test_missing_pixels
from tests.data.transforms.test_missing_pixels import LARGE, resize_weights
from tests.small_models import CHANNELS

TRANSFORMS: dict[str, tuple[Any, ...]] = {
    "long side": ("default", 96),
    "canvas": ("default", (64, 80)),
    "detr": ("detr", (64, 110)),
    "crop": ("crop", 64, {"short_side": 70}),
    "lsj": ("lsj", 128),
    "lsj, short side": ("lsj", 128, {"short_side": 48}),
}
SIZES = [(64, 96), (200, 31), (33, 33), (31, 240), (128, 127)]


def created(name: str) -> Transforms:
    kind, size, *options = TRANSFORMS[name]
    transforms: Transforms = registry.create(
        "transforms", kind, size, options=options[0] if options else {}, where="data.transforms"
    )
    return transforms


OTHER_CHANNELS = [(name, kind) for kind in CHANNELS for name in ("long side", "canvas")]


@pytest.mark.parametrize(("name", "kind"), [*((name, "rgb") for name in TRANSFORMS), *OTHER_CHANNELS])
def test_images_are_resized_as_by_predict(name: str, kind: str):
    """Integers to within one level; floats to within 1e-5 of the largest value, and the same pixels are missing."""
    transforms, channels = created(name), CHANNELS.get(kind, RGB)
    resizing = Resizing(transforms)
    for size in SIZES:
        images = file_comparison.example_images(size, 1, 0, channels)
        expected = resize_image(np.ascontiguousarray(images[0].transpose(1, 2, 0)), transforms.evaluation_size(*size))
        found = resizing(torch.from_numpy(images))[0].permute(1, 2, 0).numpy()
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        tolerance = 450 * 1e-5 if kind == "float32" else 1
        np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=0, atol=tolerance)
        check_resizing(resizing, images, channels)
        if kind == "rgb" and expected.shape[0] < size[0] and expected.shape[1] < size[1]:
            assert (found != expected).mean() < 0.02  # where it shrinks, torch's kernel in nearly all pixels


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_bounds_in_the_header_give_the_evaluation_size_to_within_a_pixel(name: str):
    """Of `detr` to within the rounding of the short side, which is first, times the aspect ratio."""
    transforms = created(name)
    for height, width in SIZES:
        sides = {"height": height, "width": width, "short_side": min(height, width), "long_side": max(height, width)}
        scale = min((bound / sides[key] for key, bound in transforms.evaluation_bounds().items()), default=1)
        expected = transforms.evaluation_size(height, width)
        tolerance = 1 + max(height, width) / min(height, width) / 2 if name == "detr" else 1
        assert (round(height * scale), round(width * scale)) == pytest.approx(expected, abs=tolerance)


def test_sides_are_multiples_of_a_patch_in_a_file_too():
    resizing = Resizing(registry.create("transforms", "default", 56, options={"multiple": 14}, where="data.transforms"))
    sides = {2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)}
    program = torch.export.export(resizing, (torch.zeros(1, 3, 90, 120, dtype=torch.uint8),), dynamic_shapes=(sides,))
    assert program.module()(torch.zeros(1, 3, 375, 1242, dtype=torch.uint8)).shape[2:] == (14, 56)


# ---- missing pixels ----

test_a_pixel_is_the_mean_of_valid_pixels = test_missing_pixels.test_a_resampled_pixel_is_the_mean_of_valid_pixels


def in_file(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return Resizing(Stretch(size))(torch.from_numpy(image)[None])[0].numpy()


@pytest.fixture
def step() -> tuple[Any, ...]:
    """Of the test of missing pixels."""
    return in_file, LARGE, resize_weights
