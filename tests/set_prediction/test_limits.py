"""Options outside their limits are errors that name them, of all modules; the limits themselves are allowed."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest

from densevit.interfaces import Class
from densevit.set_prediction.denoising import build_denoising
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.levels import LevelProjections
from densevit.set_prediction.limits import check_classes, check_counts, check_weights
from densevit.set_prediction.mask_classification import InstanceMaskClassification, PanopticMaskClassification
from densevit.set_prediction.projections import FusedProjection
from densevit.set_prediction.transformer import Transformer

CLASSES = [Class("a", 0, (0, 0, 0))]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_counts({"a": 1, "b": 3}, 1, 3), None),
        (lambda: check_counts({"a": 1, "b": 0}), "b is 0; it must be at least 1."),
        (lambda: check_counts({"a": 4}, 0, 3), "a is 4; it must be at most 3."),
        (lambda: check_weights({"l1": 0.0}), None),
        (lambda: check_weights({"l1": 2.0, "giou": -0.5}), "giou is -0.5; a weight must be at least 0."),
        (lambda: check_classes(CLASSES), None),
        (lambda: check_classes([], "depth"), "The depth data has no classes; at least one is needed."),
        (lambda: Transformer(4, 4, 0, 1, 1, 1.0), None),
        (lambda: Transformer(18, 2), "width is 18; it must be a multiple of 4"),
        (lambda: Transformer(0), "width is 0; it must be a multiple of 4"),
        (lambda: Transformer(20), "width is 20; it must be a multiple of num_heads, 8"),
        (lambda: Transformer(decoder_layers=0), "decoder_layers is 0; it must be at least 1"),
        (lambda: Transformer(encoder_layers=1001), "encoder_layers is 1001; it must be at most 1000"),
        (lambda: Transformer(feedforward=0), "feedforward is 0; it must be at least 1"),
        (lambda: Transformer(dropout=1.5), "dropout is 1.5; expected a probability"),
        (lambda: LevelProjections((4,), (16,), 32, 1, 17), "min_stride is 17, but the coarsest feature has stride 16"),
        (lambda: FusedProjection((1,), (16,), 1, 17, 0), "stride is 17, but the coarsest feature has stride 16"),
        (lambda: build_denoising(4, 2, 1, 3), "set denoising to 0"),
        (lambda: build_denoising(4, 2, -1, 0), "denoising is -1"),
        (lambda: build_denoising(4, 2, 0, -1), "contrastive_denoising is -1"),
        (lambda: SetPredictionHead((8,), (8,), CLASSES, 100_000), None),
        (lambda: SetPredictionHead((8,), (8,), CLASSES, 100_001), "num_queries is 100001; it must be at most 100000"),
        (lambda: SetPredictionHead((8,), (8,), (), 1), "The detection data has no classes"),
        (lambda: InstanceMaskClassification((8,), (8,), CLASSES, 100_001, 4, 1), "num_queries is 100001"),
        (lambda: InstanceMaskClassification((8,), (8,), CLASSES, 1, 4, 0), "num_points is 0"),
        (lambda: InstanceMaskClassification((8,), (8,), (), 1, 4, 1), "no classes"),
        (lambda: PanopticMaskClassification((8,), (8,), CLASSES, 1, 4, 1).set_threshold(1.0), None),
        (
            lambda: PanopticMaskClassification((8,), (8,), CLASSES, 1, 4, 1).set_threshold(1.1),
            "threshold is 1.1; .* from 0 to 1",
        ),
    ],
)  # fmt: skip
def test_values_outside_the_limits_are_named(call: Callable[[], object], message: str | None):
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        call()
