"""The runner of checks, and the messages of their results."""

import warnings
from dataclasses import replace

import pytest
import torch

from densevit_workbench.testing.check_results import (
    CheckFailed,
    Failure,
    NotChecked,
    all_passed,
    check,
    run,
)
from densevit_workbench.testing.targets import random_targets


@check("it passes", fix="")
def passes(fixture):
    return fixture.get("note")


@check("two", fix="count again")
def finds(fixture):
    raise Failure("three", "two", "take one away")


@check("a key", fix="add the key")
def breaks(fixture):
    return fixture["no such key"]


@check("no noise", fix="")
def warns(fixture):
    warnings.warn("not shown", stacklevel=1)


CHECKS = (passes, finds, breaks, warns)
FOUND = "found three; expected two. Fix: take one away"


def test_results_come_one_by_one_with_notes_and_messages():
    results = run(CHECKS, {"note": "by a hair"})
    first = next(results)
    assert (first.name, first.passed, first.note) == ("passes", True, "by a hair")
    second, third, fourth = results
    assert (second.name, second.passed, second.message) == ("finds", False, f"{FOUND}.")
    assert third.name == "breaks" and fourth.passed
    assert third.message.startswith("found KeyError: 'no such key' (test_check_results.py, line ")
    assert third.message.endswith("; expected a key, without an exception. Fix: add the key.")


def test_failed_required_check_is_the_last_and_an_inapplicable_one_passes_with_a_note():
    @check("labels", fix="")
    def losses(fixture):
        raise NotChecked("no labels")

    first, last = run((losses, replace(finds, required=True), breaks, warns), {})
    assert (first.name, first.passed, first.note, first.message) == ("losses", True, "no labels", "")
    assert last.name == "finds" and "The other 2 checks need this one." in last.message


def test_skipped_checks_do_not_run_and_a_failure_lists_every_failed_check():
    assert [r.name for r in all_passed("it", run(CHECKS, {}, skip=("finds", "breaks")))] == ["passes", "warns"]
    with pytest.raises(ValueError, match=r"no check 'find'. Did you mean 'finds'\? Known: breaks, finds"):
        run(CHECKS, {}, skip=("find",))
    with pytest.raises(CheckFailed) as caught:
        all_passed("it", run(CHECKS, {}))
    first, second, third = str(caught.value).splitlines()
    assert (first, second) == ("it fails 2 of 4 checks:", f"- finds: {FOUND}.")
    assert third.startswith("- breaks: found KeyError")
    assert len(caught.value.results) == 4


def test_random_targets_have_the_documented_types():
    generator = torch.Generator().manual_seed(0)
    target = random_targets(("boxes", "labels", "masks", "semantic", "depth"), (40, 60), 3, generator, objects=50)
    boxes = target["boxes"]
    assert boxes.shape == (50, 4) and (boxes[:, 2:] - boxes[:, :2]).min() >= 4 - 1e-4
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 60 and boxes[:, 3].max() <= 40
    assert set(target["labels"].tolist()) == {0, 1, 2}
    rows, columns = target["masks"].to("cpu")[7].nonzero().unbind(1)
    x0, y0, x1, y1 = boxes[7].tolist()
    assert (rows.min(), rows.max()) == (round(y0), round(y1) - 1)  # a pixel is inside if its centre is
    assert (columns.min(), columns.max()) == (round(x0), round(x1) - 1)
    assert set(target["semantic"].unique().tolist()) == {0, 1, 2, 255}
    assert target["depth"].shape == (40, 60) and (target["depth"] == 0).any() and target["depth"].max() <= 10
    empty = random_targets(("boxes", "depth", "gaze"), (9, 8), 1, generator, 0, image_id=5, original_size=(18, 16))
    assert empty.keys() == {"image_id", "size", "original_size", "boxes", "depth"}
    assert empty["boxes"].shape == (0, 4) and not empty["depth"].any()
    assert (empty["image_id"], empty["size"], empty["original_size"]) == (5, (9, 8), (18, 16))
