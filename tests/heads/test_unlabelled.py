"""Values that label nothing (-1, 255, void, 0 m, nan, crowds): no head learns from them, with any of its losses."""

import functools
from typing import Any

import pytest

from densevit import registry
from densevit.set_prediction.transformer import Transformer
from densevit.targets.types import TargetTypes
from densevit.testing import check_head
from densevit_heads.dab_detr.extensions import Extensions
from densevit_heads.dpt.depth import DepthLossWeights
from densevit_heads.mask2former.options import PixelDecoderOptions
from densevit_workbench.testing.heads import CHECKS
from densevit_workbench.testing.targets import SupportsUnlabelled
from tests.heads.mask2former.test_mask2former import TRANSFORMER

NAMES = ("unlabelled_values", "unlabelled_pixels", "crowds")
OTHERS = [one.name for one in CHECKS if one.name not in ("construction", "determinism", *NAMES)]

DETR = {"num_queries": 6, "transformer": Transformer(32, 2, 1, 2, 32)}
FAST: dict[str, Any] = {
    **DETR, "classification": "mal",
    "extensions": Extensions(stride=8, two_stage=True, denoising=2, dense_loss=1.0),
}  # fmt: skip
MASKS = {"num_queries": 6, "num_points": 64, "transformer": TRANSFORMER}
MASKS |= {"pixel_decoder": PixelDecoderOptions(layers=1, feedforward=16)}
EOMT = {"num_queries": 6, "num_blocks": 2, "num_points": 64}
MAX = {"num_queries": 6, "width": 16, "pixel_width": 4, "num_heads": 2, "feedforward": 16}
SETR = {"width": 8, "branch_width": 8}
DPT = {"width": 16}

# The options of each head: small, and such that every loss is used.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "classifier": [{}, {"tokens": 1, "label_smoothing": 0.0}],
    "dab_detr_panoptic": [{"dab_detr": FAST}],
    "detr_panoptic": [{"detr": DETR}, {"detr": DETR, "freeze_detector": True}],
    "dpt": [
        {**DPT, "loss_weights": DepthLossWeights(trimmed=0.0, gradient=0.5)},
        {**DPT, "loss_weights": DepthLossWeights(trimmed=1.0, gradient=0.5)},
        {**DPT, "output": "softplus", "loss_weights": DepthLossWeights(l1=0.1, gradient=0.5)},
        {**DPT, "output": "bins"},
    ],
    "dpt_segmentation": [{**DPT, "dice": 1.0, "label_smoothing": 0.1, "class_weights": "balanced"}],
    "eomt": [EOMT],
    "eomt_semantic": [EOMT],
    "kmax_deeplab": [{**MAX, "layers": (1, 1, 1), "pixel_layers": (1, 1, 1, 1)}],
    "mask2former": [MASKS, {**MASKS, "semantic_loss": 2.0}],
    "mask2former_semantic": [MASKS],
    "max_deeplab": [{**MAX, "layers": 1}],
    "perceiver_io": [{"width": 16, "num_latents": 4, "num_layers": 1, "num_heads": 2}],
    "segformer": [{"width": 16, "class_weights": (1.0, 2.0, 0.5, 1.0)}],
    "segmenter": [{"width": 32, "num_heads": 4}],
    "setr": [
        {**SETR, "decoder": "mla", "dice": 1.0, "label_smoothing": 0.1},
        {**SETR, "ohem_threshold": 0.7, "ohem_min_kept": 50, "class_weights": "balanced"},
    ],
    "upernet": [{"width": 16, "auxiliary_width": 16}],
}


def test_every_head_with_such_values_has_a_case() -> None:
    types = TargetTypes()
    needs = {name: registry.load("heads", name).needs for name in registry.find("heads")}
    marked = {key for key, kind in types.items() if isinstance(kind, SupportsUnlabelled)}
    assert OPTIONS.keys() == {name for name, keys in needs.items() if marked.intersection(keys)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id=f"{name}-{i}")
        for name, every in OPTIONS.items()
        for i, options in enumerate(every)
    ],
)
def test_values_that_label_nothing_are_not_learned(name: str, options: dict[str, Any]) -> None:
    results = check_head(functools.partial(registry.load("heads", name), **options), skip=OTHERS)
    assert {*NAMES} <= {result.name for result in results}
    noted = {result.name: result.note for result in results if result.note}
    assert "unlabelled_values" not in noted and ("unlabelled_pixels" in noted) == (name == "classifier"), noted
    assert ("crowds" in noted) == ("panoptic" not in registry.load("heads", name).needs)
