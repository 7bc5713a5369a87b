"""The head contract tests of maps: values without a label, units, windows and exported files."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit.interfaces import DenseHead, Head
from densevit.testing import head_checks
from densevit_workbench.testing.head_checks import CHECKS


class Maps(Head):
    """One 1x1 convolution on the finest feature, for maps of classes or of depth."""

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.out = nn.Conv2d(channels[0], max(len(classes), 1), 1)

    def forward(self, features, padding_mask, targets=None):
        return {"map": self.out(features[0]).float(), "grid": padding_mask.shape[1:]}

    def on_image(self, outputs, i, target):
        x = F.interpolate(outputs["map"][i : i + 1], outputs["grid"])[..., : target["size"][0], : target["size"][1]]
        return F.interpolate(x, target["original_size"])[0]


class Segmenter(Maps):
    """Semantic maps."""

    task, required_targets = "segmentation", ("semantic",)

    def loss(self, outputs, targets, context):
        total, count = 0 * outputs["map"].sum(), 0
        for i, target in enumerate(targets):
            if "semantic" in target:
                x = F.interpolate(outputs["map"][i : i + 1], outputs["grid"])
                x, truth = x[..., : target["size"][0], : target["size"][1]], target["semantic"][None].long()
                total = total + F.cross_entropy(x, truth, ignore_index=255, reduction="sum")
                count += int((truth != 255).sum())
        return {"cross_entropy": total / max(count, 1)}

    def predict(self, outputs, targets):
        return [{"semantic": self.on_image(outputs, i, t).max(0).indices.byte()} for i, t in enumerate(targets)]


class Depth(Maps):
    """Depth maps."""

    task, required_targets = "depth", ("depth",)

    def __init__(self, channels, strides, classes) -> None:
        if classes:
            raise ValueError("depth has no classes")
        super().__init__(channels, strides, classes)

    def loss(self, outputs, targets, context):
        total, count = 0 * outputs["map"].sum(), 0
        for i, target in enumerate(targets):
            if "depth" in target:
                x = F.interpolate(outputs["map"][i : i + 1], outputs["grid"])[0, 0]
                x = x[: target["size"][0], : target["size"][1]].exp()
                known = self.known(target["depth"])
                total = total + (x - target["depth"])[known].abs().sum()
                count += int(known.sum())
        return {"l1": total / max(count, 1)}

    def known(self, depth):
        return (depth > 0) & depth.isfinite()

    def predict(self, outputs, targets):
        return [{"depth": self.on_image(outputs, i, t)[0].clamp(-5, 5).exp()} for i, t in enumerate(targets)]


class DenseSegmenter(Segmenter, DenseHead):
    """Semantic maps that test-time augmentation can average."""

    def maps(self, outputs, size):
        return F.interpolate(outputs["map"], outputs["grid"])[..., : size[0], : size[1]]

    def read_maps(self, maps):
        return {"semantic": maps.max(1).indices.byte()}


class DenseDepth(Depth, DenseHead):
    """Depth maps that test-time augmentation can average."""

    def maps(self, outputs, size):
        return F.interpolate(outputs["map"], outputs["grid"])[..., : size[0], : size[1]].clamp(-5, 5).exp()

    def read_maps(self, maps):
        return {"depth": maps[:, 0]}


def having(base, **members):
    """A subclass with other members. It is no class of a module: `failures` leaves out the checks that need one."""
    return type("Having", (base,), members)


def failures(factory, only=None):
    """Messages of failed checks, by name; `only` names those that run. The export has a test of its own."""
    local = ("registration", "pickling") if factory.__name__ == "Having" else ()
    names = [check.name for check in CHECKS]
    skip = [name for name in names if name not in ("construction", *only)] if only else ("export", *local)
    return {result.name: result.message for result in head_checks(factory, skip=skip) if not result.passed}


def of_unit(depth_type):
    """A head of inverse depth that declares this depth type."""

    def predict(self, outputs, targets):
        return [{"inverse_depth": found["depth"]} for found in Depth.predict(self, outputs, targets)]

    return having(Depth, depth_type=depth_type, predict=predict)


@pytest.mark.parametrize("sound", [Segmenter, DenseSegmenter, DenseDepth, of_unit("inverse_depth")])
def test_valid_head_passes(sound):
    assert failures(sound) == {}


def indices(self, outputs, targets):
    return [{"semantic": self.on_image(outputs, i, t).max(0).indices} for i, t in enumerate(targets)]


def at_size(self, outputs, i, target):
    return Maps.on_image(self, outputs, i, {**target, "original_size": target["size"]})


@pytest.mark.parametrize(
    ("wrong", "checks", "facts"),
    [
        (of_unit("depth"), "predictions", ("a depth_type of 'depth'",)),
        (having(Segmenter, predict=indices), "predictions", ("int64", "195 x 383", "semantic.to(torch.uint8)")),
        (having(Segmenter, on_image=at_size), "predictions original_pixels", ()),
    ],
)
def test_predictions_of_another_unit_dtype_or_size_fail(wrong, checks, facts):
    found = failures(wrong)
    assert found.keys() == set(checks.split())
    assert all(fact in found["predictions"] for fact in facts)


def mean_of_maps(self, outputs, targets, context):
    """Divides by all pixels, also ignored ones."""
    [(name, loss)] = Segmenter.loss(self, outputs, targets, context).items()
    labelled = [target["semantic"] for target in targets if "semantic" in target]
    known = sum(int((x != 255).sum()) for x in labelled)
    return {name: loss * known / max(sum(x.numel() for x in labelled), 1)}


@pytest.mark.parametrize(
    ("head", "failed"),
    [
        (Segmenter, set()),
        (Depth, set()),
        (having(Depth, known=lambda self, depth: depth > 0), {"unlabelled_values", "unlabelled_pixels"}),
        (having(Segmenter, loss=mean_of_maps), {"unlabelled_values"}),
    ],
)
def test_values_that_label_nothing_are_not_learned(head, failed):
    found = failures(head, only=("determinism", "unlabelled_values", "unlabelled_pixels"))
    assert found.keys() == failed, found


def resized(self, outputs, size):
    return F.interpolate(outputs["map"], tuple(size))


ZOOMED = "undo_zoom(maps, 1.0) of "
WRONG_MAPS = [
    (having(Segmenter, maps=DenseSegmenter.maps), "not a DenseHead"),
    (having(DenseSegmenter, maps=resized), "maps that are resized to a smaller size"),
    (having(DenseSegmenter, read_maps=lambda _, x: {"semantic": x.argmin(1).byte()}), "semantic that differs between"),
    (having(DenseDepth, undo_zoom=lambda _, maps, zoom: maps + zoom), ZOOMED + "(3, 1, 96, 128) that changes maps"),
]


@pytest.mark.parametrize(("broken", "found"), WRONG_MAPS)
def test_maps_that_windows_cannot_average_fail(broken, found):
    failed = failures(broken)
    assert failed.keys() == {"maps"}
    assert found in failed["maps"]


def remembers_the_size(self, outputs, size, original_size=None):
    """The graph divides by the height of the traced images."""
    height = torch.tensor(np.array(float(int(outputs["grid"][0]) if torch.compiler.is_exporting() else size[0])))
    return {"depth": self.maps(outputs, size)[:, 0] / height}


@pytest.mark.integration
def test_exported_outputs_are_checked():
    assert not failures(DenseSegmenter, only=("export",))
    found = failures(having(DenseDepth, exported=remembers_the_size), only=("export",))
    assert "'depth' of the exported file that differs by" in found["export"]
