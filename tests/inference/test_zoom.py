"""Metres stay metres at every image size: all doors of prediction x sizes x target types that a zoom changes."""

from pathlib import Path

import numpy as np
import pytest
import torch

import densevit
from densevit.data.transforms.default import DefaultTransforms, Resize
from densevit.data.transforms.sample_resizing import EvaluationTransform
from tests.inference.zoomed_models import (
    CANONICAL,
    IMAGE,
    MAPS,
    SIDE,
    SIZES,
    TYPES,
    VALUE,
    check,
    predicted,
    write_model,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_model(tmp_path / "run", TYPES)
    return tmp_path / "run"


def test_predictions_of_every_size(run):
    predictor = densevit.load(run)
    for size in SIZES:
        check(predicted(predictor, image_size=size))
    for transforms in (Resize(80, stretch=True), DefaultTransforms((90, 100))):
        check(predicted(predictor.with_resize(transforms)))
    result = predicted(predictor)["depth"]["depth"]
    with torch.no_grad():  # at the size of training, the head's own values
        sample = EvaluationTransform(predictor.resize)(
            {"image": torch.from_numpy(IMAGE).permute(2, 0, 1), "targets": {}}
        )
        batch = {"images": sample["image"][None], "padding_mask": torch.zeros(1, 32, SIDE, dtype=torch.bool)}
        (plain,) = predictor.predictions(predictor({**batch, "targets": []}), [sample["targets"]])["depth"]
    assert np.array_equal(result, plain["depth"].numpy())


@pytest.mark.parametrize("size", [None, 128, "source"])
@pytest.mark.parametrize(
    "options", [{"scales": [0.5, 1.0, 2.0]}, {"window": 48, "stride": 40}, {"flip": True}], ids=str
)
def test_zooms_of_scales_and_of_the_size_are_undone_once(run, options, size):
    check(predicted(densevit.load(run).with_heads(MAPS), image_size=size, inference=options), MAPS)


def test_only_a_replaced_resize_is_the_training_s(tmp_path):
    model = write_model(tmp_path / "run", TYPES)
    model.training_data = None
    known = densevit.DenseModel(model.backbone, model.heads).with_resize(DefaultTransforms(SIDE))
    for size in SIZES:
        check(predicted(known, image_size=size))
    unknown = densevit.DenseModel(model.backbone, model.heads)
    seen = float(predicted(unknown, image_size=2 * SIDE)["depth"]["depth"].median())
    assert seen == pytest.approx(VALUE / 2, rel=0.05)  # nothing is known, so nothing is changed


@pytest.mark.parametrize("head", [{}, {"canonical_focal": CANONICAL}], ids=str)
@pytest.mark.parametrize(
    "override", ["data.image_size=128", "data.image_size=[40,96]", "data.transforms=plain_stretch"]
)
def test_an_evaluation_at_another_size(tmp_path, override, head):
    write_model(tmp_path / "run", ["depth"], head=head)
    assert densevit.evaluate(str(tmp_path / "run"), overrides=[override])["depth/AbsRel"] < 0.05
