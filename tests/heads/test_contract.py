"""Every registered head meets its interface, with each kind of its options, also on maps of one cell."""

import functools

import pytest

import densevit
from densevit import registry
from densevit.interfaces import Class
from densevit.testing import check_head
from densevit_workbench.testing.head_checks import CHANNELS, STRIDES
from tests.heads.cases import CASES
from tests.heads.padded_batch import SIZES, padded_batch, step

pytestmark = pytest.mark.integration


def test_every_head_is_a_case() -> None:
    assert {case.head for case in CASES.values()} == set(densevit.list_plugins("heads"))


FIRST = {case.head: name for name, case in reversed(CASES.items())}
"""One case of each head is an integration test, the others are slow."""


@pytest.mark.parametrize(
    "name",
    [x if FIRST[case.head] == x else pytest.param(x, marks=pytest.mark.slow) for x, case in CASES.items()],
)
def test_a_head_passes_all_checks(name: str) -> None:
    """All but the export, which costs ten seconds: tests/export exports each head.

    Values that label nothing (-1, 255, void, 0 m, nan, crowds) are not learned, with any of its losses.
    """
    case = CASES[name]
    kind = registry.load("heads", case.head)
    results = check_head(
        functools.partial(kind, **case.options),
        channels=CHANNELS[: case.levels],
        strides=STRIDES[: case.levels],
        reach=case.reach,
        skip=("export", *case.skip),
    )
    notes = {result.name for result in results if result.note}
    pixels = {"semantic", "panoptic", "depth"}.intersection(kind.required_targets)
    assert ("unlabelled_values" in notes) == (not pixels and "image_class" not in kind.required_targets)
    assert ("unlabelled_pixels" in notes) == (not pixels)
    assert ("crowds" in notes) == ("panoptic" not in kind.required_targets)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "num_queries" in case.options])
def test_a_head_trains_and_predicts_on_fewer_cells_than_queries_and_objects(name: str) -> None:
    """Of images of 48 x 64 pixels, with 12 and 4 cells, and of images that are one cell, also smaller than a stride."""
    case = CASES[name]
    if registry.load("heads", case.head).required_targets != ("boxes", "labels"):
        pytest.skip("its queries are learned; rf_detr_instance selects them as rf_detr")
    classes = [Class(str(i), i + 1, (0, 0, 0)) for i in range(3)]
    head = densevit.create_head(case.head, (8, 8), (16, 32), classes, **{**case.options, "num_queries": 40})
    for counts, sizes in (((3, 0, 20), SIZES), ((1, 1), [(1, 1)] * 2), ((1, 1), [(9, 70)] * 2)):
        features, mask, targets = padded_batch(counts, ((8, 16), (8, 32)), sizes)
        step(head.train(), features, mask, targets)
        predictions = head.eval().predict(head(features, mask), targets)
        assert all(one["scores"].isfinite().all() and one["boxes"].isfinite().all() for one in predictions)
