"""CocoMasks against pycocotools' `segm` on COCO JSON files, bit-identical."""

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as codes
from pycocotools.cocoeval import COCOeval

from densevit.evaluation.coco_masks import CocoMasks
from densevit.targets import RunLengthMasks
from tests.evaluation.coco_reference import CLASSES, Pairs, as_json, near_boundary, reference, same, updated


def ellipses(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Masks (N, H, W) bool of ellipses, some cut by the image's edge."""
    y, x = np.mgrid[: size[0], : size[1]]
    center, radius = rng.uniform(0, 1, (count, 2)) * size, np.exp(rng.uniform(1, 5, (count, 2)))
    return np.array(
        [((y - c[0]) / r[0]) ** 2 + ((x - c[1]) / r[1]) ** 2 < 1 for c, r in zip(center, radius, strict=True)]
    ).reshape(count, *size)


def messy(seed: int, images: int = 10) -> Pairs:
    """Predictions and ground truth with crowds, ties, empty masks, images without objects and an absent class."""
    rng = np.random.default_rng(seed)
    pairs = []
    for image_id in rng.choice(10_000, images, replace=False).tolist():
        size = (int(rng.integers(130, 180)), int(rng.integers(130, 240)))
        count = 0 if rng.random() < 0.2 else int(rng.integers(1, 7))
        masks = ellipses(rng, count, size)
        labels = rng.integers(0, 4, count)  # classes 4 and 5 have no ground truth
        truth = {
            "image_id": image_id,
            "masks": RunLengthMasks.from_dense(masks, size),
            "labels": torch.tensor(labels),
            "area": torch.tensor(masks.sum((1, 2)) * rng.uniform(0.6, 1, count), dtype=torch.float32),
            "iscrowd": torch.tensor(rng.random(count) < 0.2),
        }
        found = rng.integers(0, max(count, 1), 0 if rng.random() < 0.1 else 4 * count)
        shifted = [np.roll(masks[n], rng.integers(-5, 6, 2), (0, 1)) for n in found]
        shifted = [np.zeros_like(mask) if rng.random() < 0.05 else mask for mask in shifted]
        wrong = rng.random(len(found)) < 0.2
        scores = rng.random(len(found))
        prediction = {
            "masks": torch.tensor(np.array(shifted).reshape(-1, *size), dtype=torch.bool),
            "scores": torch.tensor(scores.round(1) if seed % 2 else scores, dtype=torch.float32),  # ties
            "labels": torch.tensor(np.where(wrong, rng.integers(0, 5, len(found)), labels[found] if count else 0)),
        }
        pairs.append((prediction, truth))
    return pairs


class BoundaryEval(COCOeval):
    """pycocotools with the boundary IoU of Cheng et al. 2021, written out."""

    def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802  # pycocotools' name
        ious = super().computeIoU(image, category)
        found = sorted(self._dts[image, category], key=lambda one: -one["score"])[: self.params.maxDets[-1]]
        for d, detection in enumerate(found):
            for g, truth in enumerate(self._gts[image, category]):
                if not truth["iscrowd"]:
                    a, b = (near_boundary(codes.decode(one["segmentation"]), 0.02) for one in (detection, truth))
                    ious[d, g] = min(ious[d, g], (a & b).sum() / max((a | b).sum(), 1))
        return ious


def evaluated(pairs: Pairs, batch_size: int = 5, **options: Any) -> CocoMasks:
    return updated(CocoMasks(CLASSES, **options), pairs, batch_size)


def prefixed(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in metrics.items()}


def expected_of(truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    return prefixed(reference(truth, results, "segm"), "mask_")


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_metrics_match_pycocotools(backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("densevit.evaluation.coco_ap.fastest_backend", lambda: backend)
    for seed in (0, 1):
        pairs = messy(seed, 20)
        truth, results = as_json(pairs, "masks")
        evaluator, expected = evaluated(pairs), expected_of(truth, results)
        assert same(evaluator.compute(), expected)
        assert 0.05 < expected["mask_AP"] < 0.95 and math.isnan(expected["mask_AP/class 4"])
        assert same(expected_of(truth, json.loads(json.dumps(evaluator.results()))), expected)


def test_boundary_metrics_match_the_definition():
    pairs = messy(1)
    truth, results = as_json(pairs, "masks")
    boundaries = reference(truth, results, "segm", BoundaryEval)
    expected = expected_of(truth, results) | prefixed(boundaries, "boundary_")
    whole = evaluated(pairs, boundary=True)
    assert same(whole.compute(), expected)
    assert boundaries["AP"] < expected["mask_AP"] - 0.05
    assert len(pickle.dumps(whole.state())) < 500_000  # run lengths: as pixels, the masks have megabytes


def test_missing_areas_and_crowds_have_defaults():
    pairs = messy(0)
    bare = [(found, {key: truth[key] for key in ("image_id", "masks", "labels")}) for found, truth in pairs]
    full = []
    for found, truth in bare:
        known = {"area": torch.tensor(truth["masks"].areas()).float(), "iscrowd": torch.zeros(len(truth["labels"]))}
        full.append((found, truth | known))
    assert same(evaluated(bare).compute(), evaluated(full).compute())
    unlabelled = [(found, {"image_id": 99_999}) for found, _ in pairs[:1]]
    assert same(evaluated([*pairs, *unlabelled]).compute(), evaluated(pairs).compute())
