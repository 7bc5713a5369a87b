"""DepthErrors against the written-out formulas, numpy's least squares and counted pixels."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from densevit import interfaces
from densevit.errors import ConfigError, DataError
from densevit.evaluation.depth_crops import cropped
from densevit.evaluation.depth_errors import DepthErrors
from tests.evaluation.coco_reference import updated
from tests.evaluation.evaluated import image_scores_of, plots_of, tables_of

Image = tuple[dict[str, Any], dict[str, Any]]


def image(image_id: int | str, truth: Any, prediction: Any, key: str = "depth") -> Image:
    found, known = (torch.as_tensor(depth, dtype=torch.float32) for depth in (prediction, truth))
    return {key: found}, {"image_id": image_id, "depth": known}


def evaluated(images: list[Image], batch: int = 2, **options: Any) -> DepthErrors:
    return updated(DepthErrors((), **options), images, batch)


def measured(images: list[Image], **options: Any) -> dict[str, float]:
    return evaluated(images, **options).metrics()


def aligned(images: list[Image], align: Any, **options: Any) -> dict[str, float]:
    """The metrics after alignment, under the names that they have without it."""
    return {name.partition("_aligned")[0]: value for name, value in measured(images, align=align, **options).items()}


def random_images(count: int = 7, seed: int = 0) -> list[Image]:
    """Maps of many sizes, a third of their pixels unknown, with errors of about 30 per cent."""
    rng = np.random.default_rng(seed)
    images = []
    for image_id in range(count):
        size = tuple(rng.integers(5, 40, 2))
        truth = rng.uniform(0.5, 12, size)
        prediction = truth * np.exp(rng.normal(0.1, 0.3, size))
        truth[rng.random(size) < 0.3] = 0
        images.append(image(image_id, truth, prediction))
    return images


def test_delta_thresholds_are_exclusive():
    """Ratios of just 1.25 (exact in floating point) and 1.25^2 are not below them."""
    truth = [[1.0, 1.25, 1, 1.5625, 1, 1.953125, 1, 1]]
    prediction = [[1.25, 1, 1.5625, 1, 1.953125, 1, 1.2, 1 / 1.2]]
    metrics = measured([image(1, truth, prediction)])
    assert [metrics[f"delta{n}"] for n in (1, 2, 3)] == [2 / 8, 4 / 8, 6 / 8]


def written_out(p: np.ndarray, g: np.ndarray) -> dict[str, float]:
    log = np.log(p) - np.log(g)
    ratio = np.maximum(p / g, g / p)
    return {
        "AbsRel": np.mean(np.abs(p - g) / g),
        "SqRel": np.mean((p - g) ** 2 / g),
        "RMSE": np.sqrt(np.mean((p - g) ** 2)),
        "RMSElog": np.sqrt(np.mean(log**2)),
        "log10": np.mean(np.abs(np.log10(p) - np.log10(g))),
        "SILog": np.sqrt(np.mean(log**2) - np.mean(log) ** 2),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
        "delta_2.5": np.mean(ratio < 2.5),
    }


def test_random_maps_match_the_formulas():
    images = random_images()
    pixels = []
    for found, truth in images:
        p, g = found["depth"].double().numpy(), truth["depth"].double().numpy()
        counts = (g > 1e-3) & (g < 10)
        pixels.append((np.clip(p, 1e-3, 10)[counts], g[counts]))
    by_image = [written_out(p, g) for p, g in pixels]
    whole = written_out(*(np.concatenate(depths) for depths in zip(*pixels, strict=True)))
    expected = {name: np.mean([one[name] for one in by_image]) for name in by_image[0]}
    expected |= {f"{name}_pixel": value for name, value in whole.items()}
    assert measured(images, max_depth=10, per_pixel=True, deltas=(2.5,)) == pytest.approx(expected, rel=1e-11)


def test_depth_limits_exclude_ground_truth_and_clamp_predictions():
    truth = [[0.5, 1.0, 2.0, 4.0, 8.0, 9.0, math.inf, math.nan]]
    prediction = [[7.0, 7.0, -3.0, 80.0, 7.0, 7.0, 7.0, 7.0]]
    metrics = measured([image(1, truth, prediction)], min_depth=1, max_depth=8)
    assert metrics["AbsRel"] == (1 / 2 + 4 / 4) / 2  # 2 m predicted as 1, 4 m predicted as 8
    assert metrics["RMSE"] == math.sqrt((1 + 16) / 2)


@pytest.mark.parametrize(
    ("crop", "size", "rows", "columns"),
    [
        ("none", (30, 40), (0, 30), (0, 40)),
        ("eigen", (480, 640), (45, 471), (41, 601)),
        ("garg", (375, 1242), (153, 371), (44, 1197)),  # 153.04, 371.96, 44.65, 1197.4
        ("eigen_kitti", (375, 1242), (124, 342), (44, 1197)),  # 124.7, 342.6
    ],
)
def test_crops(crop: Any, size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]):
    inside = np.zeros(size, bool)
    inside[rows[0] : rows[1], columns[0] : columns[1]] = True
    own = np.zeros(size, bool)
    own[cropped(crop, *size)] = True
    assert (own == inside).all()
    metrics = measured([image(1, np.ones(size), np.where(inside, 2.0, 1.0))], crop=crop)
    assert metrics["AbsRel"] == 1 and metrics["delta1"] == 0
    if crop == "eigen":
        with pytest.raises(DataError, match=r"Image 7: .*240 x 320.*'eigen'.*480 x 640.*'garg'"):
            measured([image(7, np.ones((240, 320)), np.ones((240, 320)))], crop=crop)


def test_image_without_valid_pixels_is_ignored_with_a_warning():
    images = random_images(3)
    empty = [image("unknown", np.zeros((4, 5)), np.full((4, 5), np.nan)), image("far", [[99.0]], [[1.0]])]
    with pytest.warns(UserWarning, match="2 of 5 images have no pixel of known depth between 0.001 and 80 m"):
        found = measured([empty[0], *images, empty[1]], max_depth=80)
    assert found == measured(images, max_depth=80)


@pytest.mark.parametrize(
    ("align", "key"),
    [
        ("none", "depth"),
        ("median", "depth"),
        ("median", "inverse_depth"),
        ("scale_shift", "depth"),
        ("scale_shift_disparity", "depth"),
        ("scale_shift_disparity", "inverse_depth"),
    ],
)
def test_alignment_matches_its_formula(align: Any, key: str):
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.5, 20, (30, 20)).astype(np.float32)  # some beyond max_depth
    prediction = (rng.normal(0, 0.3, truth.shape) + 0.4 * (truth if key == "depth" else 1 / truth) + 2).astype("f4")
    counts = truth < 10
    p, g = prediction[counts].astype(np.float64), truth[counts].astype(np.float64)
    depth = p
    if align == "median":
        depth = p if key == "depth" else 1 / p
        depth *= np.median(g) / np.median(depth)
    elif align == "scale_shift":
        scale, shift = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), g, rcond=None)[0]
        depth = scale * p + shift
    elif align == "scale_shift_disparity":
        disparity = p if key == "inverse_depth" else 1 / p
        scale, shift = np.linalg.lstsq(np.stack([disparity, np.ones_like(p)], 1), 1 / g, rcond=None)[0]
        moved = scale * disparity + shift
        depth = np.where(moved < 1 / 10, 10, 1 / moved)
    metrics = aligned([image(1, truth, prediction, key)], align, max_depth=10, deltas=(2.5,))
    assert metrics == pytest.approx(written_out(np.clip(depth, 1e-3, 10), g), rel=1e-9)


def meets(depth_type: str | None, metric: bool = True, **options: Any) -> DepthErrors:
    head = type("Head", (interfaces.Head,), {"depth_type": depth_type})((8,), (4,), ())
    data = type("Data", (interfaces.Dataset,), {"metric": metric})()
    evaluator = DepthErrors((), **options)
    evaluator.prepare(head, data)
    return evaluator


def test_the_alignment_fits_the_head_and_the_data():
    for metric in (True, False):
        assert meets("inverse_depth", metric).main == "AbsRel_aligned_disparity"
        assert meets("inverse_depth", metric, align="median").main == "AbsRel_aligned_median"
    with pytest.raises(ConfigError, match=r"^align is scale_shift, but Head predicts inverse depth"):
        meets("inverse_depth", align="scale_shift")
    with pytest.raises(ConfigError, match=r"^align is none, but the depth of the data has no unit"):
        meets("depth", metric=False)
    assert meets("depth", metric=False, align="median").align == "median"
    assert meets(None).main == meets(None, metric=False).main == meets("depth").main == "AbsRel"  # of no declared unit


def test_errors_by_distance_cover_all_pixels_of_an_interval():
    """By hand: two images, four pixels between 1.5 and 2 m and between 5 and 7 m; 0 is unknown."""
    evaluator = DepthErrors([])
    truths = [torch.tensor([[1.6, 6.0, 0.0]]), torch.tensor([[1.6, 5.0]])]
    found = [torch.tensor([[2.0, 3.0, 9.0]]), torch.tensor([[1.6, 6.0]])]
    evaluator.update([{"depth": p} for p in found], [{"image_id": n, "depth": g} for n, g in enumerate(truths)])
    header, near, far = tables_of(evaluator)["distance"]
    assert header == ["distance", "pixels", "AbsRel", "RMSE", "bias"]
    assert near[:2] == ["1.5 to 2", 2] and far[:2] == ["5 to 7", 2]
    assert near[2:] == pytest.approx([0.25 / 2, math.sqrt(0.16 / 2), 0.4 / 2])
    assert far[2:] == pytest.approx([(0.5 + 0.2) / 2, math.sqrt((9 + 1) / 2), (-3 + 1) / 2])
    assert plots_of(evaluator)["RMSE by distance"].curves["RMSE"] == [(1.75, near[3]), (6, far[3])]
    assert image_scores_of(evaluator) == {0: pytest.approx(-(0.25 + 0.5) / 2), 1: pytest.approx(-0.1)}
