"""The head contract tests of maps: values without a label, units, windows and exported files."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densevit.testing import head_checks
from densevit_heads.linear import LinearDepth, LinearSegmentation
from densevit_workbench.testing.head_checks import CHECKS
from tests.workbench.testing.test_head_checks import Sound


def having(base, **members):
    """A subclass with other members. It is no class of a module: `failures` leaves out the checks that need one."""
    return type("Having", (base,), members)


def changed(base, name, change):
    """A subclass whose method has another result: a function of (result, head, *arguments)."""
    method = getattr(base, name)
    return having(base, **{name: lambda self, *arguments: change(method(self, *arguments), self, *arguments)})


def predicting(base, change):
    """A subclass whose predictions of each image are a function of (predictions, target)."""
    pairs = lambda found, targets: zip(found, targets, strict=True)  # noqa: E731
    return changed(base, "predict", lambda found, head, _, targets: [change(x, t) for x, t in pairs(found, targets)])


def failures(factory, only=None):
    """Messages of failed checks, by name; `only` names those that run. The export has a test of its own."""
    local = ("registration", "pickling") if factory.__name__ == "Having" else ()
    names = [check.name for check in CHECKS]
    skip = [name for name in names if name not in ("construction", *only)] if only else ("export", *local)
    return {result.name: result.message for result in head_checks(factory, skip=skip) if not result.passed}


INVERSE = predicting(LinearDepth, lambda found, target: {"inverse_depth": next(iter(found.values()))})
INVERSE.read_maps = lambda self, maps: {"inverse_depth": maps[:, 0]}


@pytest.mark.parametrize("sound", [LinearSegmentation, LinearDepth, having(INVERSE, depth_type="inverse_depth")])
def test_valid_head_passes(sound):
    assert failures(sound) == {}


def at_size(found, target):
    height, width = target["size"]
    return {"semantic": found["semantic"][:height, :width]}


@pytest.mark.parametrize(
    ("wrong", "checks", "facts"),
    [
        (having(INVERSE, depth_type="depth"), "predictions", ("a depth_type of 'depth'",)),
        (
            predicting(LinearSegmentation, lambda found, target: {"semantic": found["semantic"].long()}),
            "predictions maps",  # which differ from predict
            ("int64", "195 x 383", "semantic.to(torch.uint8)"),
        ),
        (predicting(LinearSegmentation, at_size), "predictions original_pixels", ()),
    ],
)
def test_predictions_of_another_unit_dtype_or_size_fail(wrong, checks, facts):
    found = failures(wrong)
    assert found.keys() == set(checks.split())
    assert all(fact in found["predictions"] for fact in facts)


def mean_of_maps(losses, head, outputs, targets, context):
    """Divides by all pixels, also ignored ones."""
    labelled = torch.cat(
        [torch.zeros(0), *(target["semantic"].flatten() for target in targets if "semantic" in target)]
    )
    known = (labelled != 255).float().mean().nan_to_num()
    return {name: loss * known for name, loss in losses.items()}


@pytest.mark.parametrize(
    ("head", "failed"),
    [
        (LinearSegmentation, set()),
        (LinearDepth, set()),
        (
            having(LinearDepth, _in_range=lambda self, depth: torch.where(depth > 0, depth, 5.0)),
            {"unlabelled_values", "unlabelled_pixels"},
        ),
        (changed(LinearSegmentation, "loss", mean_of_maps), {"unlabelled_values"}),
    ],
)
def test_values_that_label_nothing_are_not_learned(head, failed):
    found = failures(head, only=("determinism", "unlabelled_values", "unlabelled_pixels"))
    assert found.keys() == failed, found


def resized(self, outputs, size):
    return F.interpolate(LinearSegmentation.maps(self, outputs, (64, 64)), tuple(size))


ZOOMED = "undo_zoom(maps, 1.0) of "


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (having(Sound, maps=LinearSegmentation.maps), "not a DenseHead"),
        (having(LinearSegmentation, maps=resized), "maps that are resized to a smaller size"),
        (
            having(LinearSegmentation, read_maps=lambda _, x: {"semantic": x.argmin(1).byte()}),
            "semantic that differs be",
        ),
        (
            having(LinearDepth, undo_zoom=lambda _, maps, zoom: maps + zoom),
            ZOOMED + "(3, 1, 96, 128) that changes maps",
        ),
    ],
)
def test_maps_that_windows_cannot_average_fail(broken, found):
    failed = failures(broken)
    assert failed.keys() - {"exported_predictions"} == {"maps"} and found in failed["maps"]


def remembers_the_size(self, outputs, size, original_size=None):
    """The graph divides by the height of the traced images."""
    height = torch.tensor(np.array(float(outputs["depth"].shape[2] if torch.compiler.is_exporting() else size[0])))
    return {"depth": self.maps(outputs, size)[:, 0] / height}


@pytest.mark.integration
def test_exported_outputs_are_checked():
    assert not failures(LinearSegmentation, only=("export",))
    found = failures(having(LinearDepth, exported=remembers_the_size), only=("export",))
    assert "'depth' of the exported file that differs by" in found["export"]
