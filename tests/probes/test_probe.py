"""Intervals by the bootstrap over images, against a bootstrap by brute force and scipy's."""

import math

import numpy as np
import pytest
import torch

from densevit.evaluation.coco_ap import CocoDetection
from densevit.evaluation.depth_errors import DepthErrors
from densevit.evaluation.image_classification import Classification
from densevit.evaluation.miou import SemanticSegmentation
from densevit.evaluation.panoptic import Panoptic
from densevit.interfaces import Class
from densevit_probes.correspondence import MatchRecall
from densevit_probes.normals import NormalAngles
from densevit_probes.probe import bootstrap_intervals

CLASSES = [Class(name, n, (0, 0, 0)) for n, name in enumerate("abc")]
IMAGES = 6


def label_maps(draw):
    truth = draw.integers(0, 3, (9, 9)).astype(np.uint8)
    noise = draw.integers(0, 3, (9, 9)).astype(np.uint8)
    prediction = np.where(draw.random((9, 9)) < draw.random(), truth, noise).astype(np.uint8)
    return {"semantic": torch.from_numpy(prediction)}, {"semantic": torch.from_numpy(truth)}


def depths(draw):
    truth = torch.from_numpy(draw.uniform(1, 9, (4, 5)))
    return {"depth": truth * draw.uniform(0.5, 1.5)}, {"depth": truth}


def boxes(draw):
    corners = draw.uniform(0, 60, (4, 2))
    truth = np.concatenate([corners, corners + draw.uniform(8, 50, (4, 2))], 1).astype(np.float32)
    labels = torch.from_numpy(draw.integers(0, 3, 4))
    moved = torch.from_numpy(truth + draw.normal(0, 3, (4, 4)).astype(np.float32))
    prediction = {"boxes": moved, "scores": torch.from_numpy(draw.random(4)), "labels": labels}
    return prediction, {"boxes": torch.from_numpy(truth), "labels": labels}


def image_classes(draw):
    return {"class_scores": torch.from_numpy(draw.random(3))}, {"image_class": torch.tensor(draw.integers(3))}


def panoptic(draw):
    prediction, truth = label_maps(draw)
    return {"panoptic": prediction["semantic"].int() * 1000, **prediction}, {"panoptic": truth["semantic"].int() * 1000}


def matches(draw):
    return {"match_errors": torch.from_numpy(draw.uniform(0, 30, 8))}, {}


def normals(draw):
    prediction, truth = torch.nn.functional.normalize(torch.from_numpy(draw.normal(size=(2, 3, 8, 8))).float(), dim=1)
    return {"normals": prediction}, {"normals": truth}


KINDS = {
    "label maps": (lambda: SemanticSegmentation(CLASSES, boundary=0.1), label_maps),
    "depth": (lambda: DepthErrors((), per_pixel=True), depths),
    "boxes": (lambda: CocoDetection(CLASSES), boxes),
    "classes": (lambda: Classification(CLASSES), image_classes),
    "panoptic": (lambda: Panoptic(CLASSES, masks=False), panoptic),
    "correspondence": (lambda: MatchRecall(()), matches),
    "normals": (lambda: NormalAngles(()), normals),
}


@pytest.fixture(params=KINDS)
def kind(request):
    """`evaluated(indices, start=0)`: the evaluator of a kind that has seen these images, with ids from `start` on."""
    build, image = KINDS[request.param]

    def evaluated(indices, start=0):
        evaluator = build()
        for number, index in enumerate(indices, start):
            prediction, truth = image(np.random.default_rng(int(index)))
            evaluator.update([prediction], [{**truth, "image_id": number}])
        return evaluator

    return evaluated


def test_a_resample_equals_an_evaluation_of_the_resampled_images(kind):
    resamples = 20
    intervals = bootstrap_intervals(kind(range(IMAGES)), resamples, np.random.default_rng(3))
    draw = np.random.default_rng(3)
    each = [kind(draw.integers(IMAGES, size=IMAGES)).metrics() for _ in range(resamples)]
    assert any(low < high for low, high in intervals.values())
    for metric, interval in intervals.items():
        values = np.array([metrics[metric] for metrics in each])
        defined = values[~np.isnan(values)]
        expected = np.quantile(defined, [0.025, 0.975]) if len(defined) else [math.nan] * 2
        np.testing.assert_allclose(interval, expected, atol=1e-12, err_msg=metric)


def test_intervals_do_not_depend_on_processes_and_leave_the_metrics_unchanged(kind):
    alone, joined = kind(range(IMAGES)), kind([])
    before = alone.metrics()
    joined.merge([kind(range(2, IMAGES), start=2).state(), kind(range(2)).state()])
    intervals = [bootstrap_intervals(evaluator, 10, np.random.default_rng(0)) for evaluator in (alone, joined)]
    np.testing.assert_allclose([*intervals[0].values()], [*intervals[1].values()], rtol=1e-12)
    np.testing.assert_equal(alone.metrics(), before)
