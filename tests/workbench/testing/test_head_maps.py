"""The head contract tests of maps: values without a label, units, windows and exported files."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit.interfaces import DenseHead, Head
from densevit.targets.maps import PanopticMap, ValueMap
from densevit.testing import head_checks
from densevit_workbench.testing.heads import CHECKS


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

    task, needs = "segmentation", ("semantic",)

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

    task, needs = "depth", ("depth",)

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


def failures(factory, only=None, skip=()):
    """Messages of failed checks, by name; `only` names those that run."""
    names = [check.name for check in CHECKS]
    skip = [name for name in names if name not in ("construction", *only)] if only else skip
    return {result.name: result.message for result in head_checks(factory, skip=skip) if not result.passed}


@pytest.mark.parametrize("sound", [Segmenter, Depth, DenseSegmenter, DenseDepth])
def test_valid_head_passes(sound):
    """The export of dense heads is in `test_exported_outputs_are_checked`."""
    assert failures(sound, skip=("export",)) == {}


class SaysMetres(Depth):
    """Returns inverse depth as metric depth."""

    quantity = "depth"

    def predict(self, outputs, targets):
        return [{"inverse_depth": found["depth"]} for found in super().predict(outputs, targets)]


class SaysNothing(SaysMetres):
    """Undeclared relative depth."""

    quantity = None


class Relative(SaysMetres):
    """Declared relative depth."""

    quantity = "inverse_depth"


def test_depth_head_declares_its_unit():
    assert failures(Relative) == {}
    for wrong in (SaysMetres, SaysNothing):
        found = failures(wrong)
        assert found.keys() == {"predictions"}
        assert f"a quantity of {wrong.quantity!r}" in found["predictions"]


class IndicesOfClasses(Segmenter):
    """Class indices without a conversion."""

    def predict(self, outputs, targets):
        return [{"semantic": self.on_image(outputs, i, t).max(0).indices} for i, t in enumerate(targets)]


class DepthWithChannel(Depth):
    """A type of its own accepts maps (1, H, W), which the evaluator of depth does not."""

    class OneChannel(ValueMap):
        channels = 1

    target_types = {"depth": OneChannel()}  # noqa: RUF012
    needs = ()

    def predict(self, outputs, targets):
        return [{"depth": found["depth"][None]} for found in super().predict(outputs, targets)]


class WrongMaps(Segmenter):
    """Maps at the resized size."""

    def on_image(self, outputs, i, target):
        return super().on_image(outputs, i, {**target, "original_size": target["size"]})


@pytest.mark.parametrize(
    ("wrong", "checks", "facts"),
    [
        (IndicesOfClasses, {"predictions"}, ("semantic", "int64", "195 x 383", "semantic.to(torch.uint8)")),
        (DepthWithChannel, {"predictions"}, ("1 x 195 x 383", "the evaluator 'depth'")),
        (WrongMaps, {"predictions", "original_pixels"}, ()),
    ],
)
def test_predictions_of_another_dtype_or_size_fail(wrong, checks, facts):
    found = failures(wrong)
    assert found.keys() == checks
    assert all(fact in found["predictions"] for fact in facts)


class ReadsInfinity(Depth):
    """Depth of inf is a distance."""

    def known(self, depth):
        return depth > 0


class MeanOfMaps(Segmenter):
    """Divides by all pixels, also ignored ones, and returns other normalisers."""

    def loss(self, outputs, targets, context):
        [(name, loss)] = super().loss(outputs, targets, context).items()
        labelled = [target["semantic"] for target in targets if "semantic" in target]
        known = sum(int((x != 255).sum()) for x in labelled)
        return {name: loss * known / max(sum(x.numel() for x in labelled), 1)}


class IgnoredIsBackground(Segmenter):
    """Pixels of 255 are of the last class."""

    def loss(self, outputs, targets, context):
        last = len(self.classes) - 1
        filled = [{**t, "semantic": t["semantic"].clamp(max=last)} if "semantic" in t else t for t in targets]
        return super().loss(outputs, filled, context)


class ClassOfMaps(Maps):
    """The class of an image; -1 is the last class."""

    task, needs = "classification", ("image_class",)

    def loss(self, outputs, targets, context):
        total = 0 * outputs["map"].sum()
        labelled = [i for i, target in enumerate(targets) if "image_class" in target]
        for i in labelled:
            total = total - outputs["map"][i].mean((1, 2)).log_softmax(0)[targets[i]["image_class"]] / len(labelled)
        return {"cross_entropy": total}

    def predict(self, outputs, targets):
        scores = outputs["map"].mean((2, 3)).softmax(1)
        best = [row.max(0) for row in scores]
        return [
            {"image_class": one.indices, "image_score": one.values, "class_scores": row}
            for row, one in zip(scores, best, strict=True)
        ]


class Segments(Maps):
    """The classes of panoptic maps, also of crowds."""

    task, needs = "panoptic", ("panoptic",)

    def loss(self, outputs, targets, context):
        maps = [
            {**t, "semantic": PanopticMap().class_map(t["panoptic"].numpy())} if "panoptic" in t else t for t in targets
        ]
        maps = [{**t, "semantic": torch.from_numpy(t["semantic"])} if "semantic" in t else t for t in maps]
        return Segmenter.loss(self, outputs, maps, context)

    def predict(self, outputs, targets):
        labels = Segmenter.predict(self, outputs, targets)
        return [{"panoptic": 1000 * one["semantic"].int()} for one in labels]


@pytest.mark.parametrize(
    ("head", "failed"),
    [
        (Segmenter, set()),
        (Depth, set()),
        (ReadsInfinity, {"unlabelled_values", "unlabelled_pixels"}),
        (MeanOfMaps, {"unlabelled_values"}),
        (IgnoredIsBackground, {"unlabelled_values", "unlabelled_pixels"}),
        (ClassOfMaps, {"unlabelled_values"}),
        (Segments, {"crowds"}),
    ],
)
def test_values_that_label_nothing_are_not_learned(head, failed):
    found = failures(head, only=("determinism", "unlabelled_values", "unlabelled_pixels", "crowds"))
    assert found.keys() == failed, found


def having(base, **methods):
    """A subclass with other methods."""
    return type("Having", (base,), methods)


class ReadsPlaces(DenseDepth):
    """Adds an offset that depends on the position in the input."""

    def on_image(self, outputs, i, target):
        x = self.read_maps(self.maps(outputs, outputs["grid"]))["depth"][i, : target["size"][0], : target["size"][1]]
        return F.interpolate(x[None, None], target["original_size"])[0]

    def predict(self, outputs, targets):
        return [{"depth": self.on_image(outputs, i, t)[0]} for i, t in enumerate(targets)]

    def read_maps(self, maps):
        return {"depth": maps[:, 0] + torch.arange(maps.shape[2])[:, None]}


def resized(self, outputs, size):
    return F.interpolate(outputs["map"], tuple(size))


ZOOMED = "undo_zoom(maps, 1.0) of "
WRONG_MAPS = [
    (having(Segmenter, maps=DenseSegmenter.maps), "not a DenseHead"),
    (having(DenseSegmenter, maps=resized), "maps that are resized to a smaller size"),
    (having(DenseSegmenter, maps=lambda *x: DenseSegmenter.maps(*x).half()), "of torch.float16"),
    (having(DenseSegmenter, maps=lambda _, x, size: x["map"]), "expected torch.float32 (3, C, 96, 128)"),
    (having(DenseSegmenter, read_maps=lambda _, x: {"semantic": x.argmin(1).byte()}), "semantic that differs between"),
    (having(DenseSegmenter, read_maps=lambda _, x: {"semantic": x.argmax(1)}), "semantic that differs between"),
    (having(DenseSegmenter, read_maps=lambda _, x: {"labels": x.argmax(1)}), "read_maps that gives labels"),
    (ReadsPlaces, "depth that differs where read_maps gets a part"),
    (having(DenseDepth, undo_zoom=lambda _, maps, zoom: maps + zoom), ZOOMED + "(3, 1, 96, 128) that changes maps"),
    (having(DenseDepth, undo_zoom=lambda _, maps, zoom: maps[:1] * zoom), ZOOMED + "(1, 1, 96, 128)"),
]


@pytest.mark.parametrize(("broken", "found"), WRONG_MAPS)
def test_maps_that_windows_cannot_average_fail(broken, found):
    failed = failures(broken, skip=("export", "registration", "pickling"))
    assert failed.keys() == {"maps"}
    assert found in failed["maps"]


class LoopsOverImages(DenseDepth):
    """Its graph is of as many images as are traced."""

    def maps(self, outputs, size):
        return torch.cat([DenseDepth.maps(self, outputs, size)[i : i + 1] for i in range(len(outputs["map"]))])


class ExportsTheFirst(DenseDepth):
    """Exports the depth of one image."""

    def exported(self, outputs, size, original_size=None):
        return {"depth": self.maps(outputs, size)[0]}


class RemembersTheSize(DenseDepth):
    """The graph divides by the height of the traced images."""

    def exported(self, outputs, size, original_size=None):
        height = torch.tensor(np.array(float(int(outputs["grid"][0]) if torch.compiler.is_exporting() else size[0])))
        return {"depth": self.maps(outputs, size)[:, 0] / height}


@pytest.mark.integration
def test_exported_outputs_are_checked():
    for sound in (DenseSegmenter, ReadsPlaces):  # the maps of the last are wrong, not its file
        assert not failures(sound, only=("export",))
    assert "LoopsOverImages cannot be exported: " in failures(LoopsOverImages, only=("export",))["export"]
    found = failures(ExportsTheFirst, only=("export",))["export"]
    assert "exported() with 'depth' of shape (1, 96, 128) for 2 images" in found
    assert "'depth' of the exported file that differs by" in failures(RemembersTheSize, only=("export",))["export"]


class ReadsTwice(DenseDepth):
    """Doubles the depth of a file."""

    def predict_exported(self, exported, targets):
        return [{"depth": 2 * depth} for depth in exported["depth"]]


class ReadsNoDepth(DenseDepth):
    """Makes other predictions from a file."""

    def predict_exported(self, exported, targets):
        return [{"inverse_depth": depth} for depth in exported["depth"]]


def test_predictions_from_exported_outputs_are_checked():
    only = ("exported_predictions",)
    skip = [check.name for check in CHECKS if check.name not in ("construction", "export", *only)]
    notes = {result.name: result.note for result in head_checks(Depth, skip=skip)}
    assert "has no exported()" in notes["export"] and "has no predict_exported()" in notes[only[0]]
    assert not failures(DenseSegmenter, only=only) and not failures(DenseDepth, only=only)
    message = failures(ReadsTwice, only=only)["exported_predictions"]
    assert "predictions[0]['depth']" in message and "in 100.0% of its values" in message
    message = failures(ReadsNoDepth, only=only)["exported_predictions"]
    assert """expected the predictions of predict, ["predictions[0]['depth']"]""" in message
