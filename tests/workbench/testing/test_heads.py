"""The head contract tests: valid heads pass, and each broken one fails the corresponding check."""

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit import registry
from densevit.interfaces import DenseHead, Head
from densevit.layers.positions import mask_on_grid
from densevit.set_prediction.transformer import Transformer
from densevit.targets.maps import PanopticMap, ValueMap, VectorMap
from densevit.testing import CheckFailed, check_head, head_checks
from densevit_heads.dab_detr.extensions import Extensions
from densevit_workbench.testing.heads import CHECKS


class Sound(Head):
    """Boxes from the mean of each feature; the i-th box is matched to the i-th object."""

    task = "detection"
    needs = ("boxes", "labels")

    def __init__(self, channels, strides, classes, queries: int = 4, width: int = 16) -> None:
        super().__init__(channels, strides, classes)
        self.shape = (queries, len(classes))
        self.project = nn.ModuleList(nn.Linear(c, width) for c in channels)
        self.boxes = nn.Linear(width, queries * 4)
        self.logits = nn.Linear(width, queries * len(classes))

    def pooled(self, features, padding_mask):
        total = 0
        for x, project in zip(features, self.project, strict=True):
            inside = ~mask_on_grid(padding_mask, x.shape[-2:])[:, None]
            total = total + project((x * inside).sum((2, 3)) / inside.sum((2, 3)))
        return total.tanh()  # (B, width)

    def forward(self, features, padding_mask, targets=None):
        x = self.pooled(features, padding_mask)
        return {
            "logits": self.logits(x).float().unflatten(1, self.shape),
            "boxes": self.boxes(x).float().sigmoid().unflatten(1, (-1, 4)),
        }

    def labelled(self, targets):
        return [i for i, target in enumerate(targets) if "boxes" in target and "labels" in target]

    def loss(self, outputs, targets, context):
        nothing = 0 * (outputs["logits"].sum() + outputs["boxes"].sum())
        terms = {"label": nothing, "l1": nothing}
        labelled = self.labelled(targets)
        for i in labelled:
            logits, boxes, (h, w) = outputs["logits"][i], outputs["boxes"][i], targets[i]["size"]
            N = min(len(boxes), len(targets[i].get("boxes", ())))
            truth = torch.zeros_like(logits)
            truth[torch.arange(N), targets[i].get("labels", torch.zeros(0, dtype=torch.long))[:N]] = 1
            terms["label"] = terms["label"] + F.binary_cross_entropy_with_logits(logits, truth) / len(labelled)
            if N:
                expected = targets[i]["boxes"][:N] / torch.tensor([w, h, w, h])
                terms["l1"] = terms["l1"] + (boxes[:N] - expected).abs().sum() / len(labelled)
        return terms

    def predict(self, outputs, targets):
        found = []
        for logits, boxes, target in zip(outputs["logits"], outputs["boxes"], targets, strict=True):
            scores, labels = logits.sigmoid().max(-1)
            found.append({"boxes": self.in_pixels(boxes, target), "scores": scores, "labels": labels})
        return found

    def in_pixels(self, boxes, target):
        h, w = target["original_size"]
        x, y = boxes[:, 0::2].sort().values, boxes[:, 1::2].sort().values
        return torch.stack([x[:, 0] * w, y[:, 0] * h, x[:, 1] * w, y[:, 1] * h], dim=1)


class TiedScores(Sound):
    """Objects of one score, whose order depends on the size of the batch, as rounding does."""

    def predict(self, outputs, targets):
        order = 1 if len(targets) == 1 else -1
        found = super().predict(outputs, targets)
        for one in found:
            one["scores"] = torch.full_like(one["scores"], 0.5)
        return [{key: value if order > 0 else value.flip(0) for key, value in one.items()} for one in found]


class NoNeeds(Sound):
    """Does not declare `needs`."""

    needs = "boxes"


class ForgetsClasses(Sound):
    """Does not store classes."""

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.classes = ()


class QueryRows(Sound):
    """Says that a query's rows are together, one per class."""

    def class_rows(self, name, rows):
        return torch.arange(rows).view(-1, len(self.classes)).T


class ClassRows(Sound):
    """Says that a class's rows are together, one per query."""

    def class_rows(self, name, rows):
        return torch.arange(rows).view(len(self.classes), -1)


class SomeRows(QueryRows):
    """Knows the rows of the weights only."""

    def class_rows(self, name, rows):
        return super().class_rows(name, rows if name.endswith("weight") else 0)


class FourLevels(Sound):
    """Assumes four levels."""

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.finest_of_four = strides[-4]


class LevelsByStride(Sound):
    """Identifies levels by their strides."""

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.project = nn.ModuleList({s: nn.Linear(c, 16) for c, s in zip(channels, strides, strict=True)}.values())


class TwoClasses(Sound):
    """Treats the last class as background."""

    def predict(self, outputs, targets):
        return super().predict({**outputs, "logits": outputs["logits"][..., :-1]}, targets)


class WholeCells(Sound):
    """Crops the mask to whole cells of the coarsest stride."""

    def forward(self, features, padding_mask, targets=None):
        padding_mask.unflatten(1, (-1, 32)).unflatten(3, (-1, 32))
        return super().forward(features, padding_mask, targets)


class MissingKey(Sound):
    """Returns a term only if there are objects."""

    def loss(self, outputs, targets, context):
        losses = super().loss(outputs, targets, context)
        return losses if any(len(target.get("boxes", ())) for target in targets) else {"label": losses["label"]}


class VectorLoss(Sound):
    """One loss per image."""

    def loss(self, outputs, targets, context):
        return {name: value.repeat(len(targets)) for name, value in super().loss(outputs, targets, context).items()}


class MeanOverNothing(Sound):
    """Divides by the number of objects."""

    def loss(self, outputs, targets, context):
        losses = super().loss(outputs, targets, context)
        objects = sum(len(targets[i]["boxes"]) for i in self.labelled(targets))
        return {**losses, "l1": losses["l1"] / objects} if self.labelled(targets) else losses


class LooseWithoutLabels(Sound):
    """A new zero without labels."""

    def loss(self, outputs, targets, context):
        losses = super().loss(outputs, targets, context)
        return losses if self.labelled(targets) else {name: torch.zeros(()) for name in losses}


class UnlabelledIsEmpty(Sound):
    """Treats unlabelled images as images without objects."""

    def labelled(self, targets):
        return range(len(targets))


class DividesByBatch(Sound):
    """Divides by the number of images, labelled or not."""

    def loss(self, outputs, targets, context):
        part = len(self.labelled(targets)) / len(targets)
        return {name: part * value for name, value in super().loss(outputs, targets, context).items()}


class DeadParameter(Sound):
    """An unused scale."""

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.scale = nn.Parameter(torch.ones(()))


class HalfLoss(Sound):
    """A squared loss in the precision of the features."""

    def forward(self, features, padding_mask, targets=None):
        energy = (100 * features[-1] * features[-1]).float().mean()
        return {**super().forward(features, padding_mask, targets), "energy": energy}

    def loss(self, outputs, targets, context):
        part = 1e-6 if self.labelled(targets) else 0
        losses = super().loss(outputs, targets, context)
        return {**losses, "label": losses["label"] + part * outputs["energy"]}


class ScalesTargets(Sound):
    """Scales the boxes in place."""

    def loss(self, outputs, targets, context):
        for target in targets:
            if "boxes" in target:
                target["boxes"] /= 2
        return super().loss(outputs, targets, context)


class ScalesFeatures(Sound):
    """Scales the features in place."""

    def forward(self, features, padding_mask, targets=None):
        return super().forward([x.mul_(0.5) for x in features], padding_mask, targets)


class NoScores(Sound):
    """Predicts no scores."""

    def predict(self, outputs, targets):
        return [{"boxes": p["boxes"], "labels": p["labels"]} for p in super().predict(outputs, targets)]


class LabelsFromOne(Sound):
    """Counts classes from 1."""

    def predict(self, outputs, targets):
        return [{**p, "labels": p["labels"] + 1} for p in super().predict(outputs, targets)]


class FloatLabels(Sound):
    """Floating-point labels."""

    def predict(self, outputs, targets):
        return [{**p, "labels": p["labels"].float()} for p in super().predict(outputs, targets)]


class FewerScores(Sound):
    """Lists of different lengths."""

    def predict(self, outputs, targets):
        return [{**p, "scores": p["scores"][:-1]} for p in super().predict(outputs, targets)]


class Outside(Sound):
    """Boxes that extend beyond the image."""

    def in_pixels(self, boxes, target):
        return 1.5 * super().in_pixels(boxes, target)


class CentreAndSize(Sound):
    """Boxes as cx, cy, w, h."""

    def in_pixels(self, boxes, target):
        x0, y0, x1, y1 = super().in_pixels(boxes, target).unbind(1)
        return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=1)


class ResizedPixels(Sound):
    """Boxes in coordinates of the resized image."""

    def in_pixels(self, boxes, target):
        return super().in_pixels(boxes, {"original_size": (16, 16)})


class ReadsLabels(Sound):
    """Uses labels in evaluation mode."""

    def predict(self, outputs, targets):
        found = super().predict(outputs, targets)
        return [
            {**p, "scores": p["scores"] * (0.5 if "boxes" in t else 1)} for p, t in zip(found, targets, strict=True)
        ]


class SeesPadding(Sound):
    """A mean over everything."""

    def pooled(self, features, padding_mask):
        return super().pooled(features, torch.zeros_like(padding_mask))


class BatchLeak(Sound):
    """Batch statistics in evaluation mode too."""

    def pooled(self, features, padding_mask):
        x = super().pooled(features, padding_mask)
        return x - x.mean(0)


class RandomInEvaluation(Sound):
    """Dropout in evaluation mode too."""

    def pooled(self, features, padding_mask):
        return F.dropout(super().pooled(features, padding_mask), 0.5)


class Unregistered(Sound):
    """A tensor that is not in the state dict."""

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.scale = 0.5 + torch.rand(16)

    def pooled(self, features, padding_mask):
        return super().pooled(features, padding_mask) * self.scale


class Lambda(Sound):
    """Holds a lambda."""

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.activation = lambda x: x.relu()


class UnseededWeights(Sound):
    """Initialises weights with numpy."""

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        nn.init.constant_(self.boxes.bias, np.random.default_rng().uniform())


class TakesAnything(Sound):
    """Accepts every option."""

    def __init__(self, channels, strides, classes, **options) -> None:
        super().__init__(channels, strides, classes)


class NoDocstring(Sound):
    __doc__ = None


def failures(factory, **options):
    """Messages of failed checks, by name."""
    return {result.name: result.message for result in head_checks(factory, **options) if not result.passed}


@pytest.mark.parametrize(
    ("broken", "checks"),
    [
        (NoNeeds, {"construction"}),
        (ForgetsClasses, {"construction"}),
        (FourLevels, {"one_level", "equal_strides"}),
        (LevelsByStride, {"equal_strides"}),
        (TwoClasses, {"one_class"}),
        (WholeCells, {"odd_sizes"}),
        (MissingKey, {"loss_keys"}),
        (MeanOverNothing, {"empty_targets"}),
        (LooseWithoutLabels, {"unlabelled"}),
        (UnlabelledIsEmpty, {"unlabelled", "partly_labelled"}),
        (DividesByBatch, {"partly_labelled"}),
        (DeadParameter, {"parameter_gradients"}),
        (HalfLoss, {"autocast_float16"}),
        (ScalesTargets, {"inputs_unchanged"}),
        (ScalesFeatures, {"inputs_unchanged"}),
        (NoScores, {"predictions"}),
        (LabelsFromOne, {"predictions"}),
        (FloatLabels, {"predictions"}),
        (FewerScores, {"predictions"}),
        (Outside, {"inside_image"}),
        (CentreAndSize, {"inside_image"}),
        (ResizedPixels, {"original_pixels"}),
        (ReadsLabels, {"targets_unread"}),
        (SeesPadding, {"padding"}),
        (BatchLeak, {"batch_independence", "partly_labelled"}),
        (RandomInEvaluation, {"determinism"}),
        (Unregistered, {"state_dict"}),
        (Lambda, {"pickling"}),
        (ClassRows, {"class_rows"}),
        (SomeRows, {"class_rows"}),
        (UnseededWeights, {"seeding"}),
        (TakesAnything, {"options"}),
        (NoDocstring, {"registration"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_head_fails_the_named_check(broken, checks):
    assert failures(broken).keys() == checks


def test_rows_of_classes_are_checked_if_the_head_knows_them():
    [known], [unknown] = (
        [result for result in head_checks(head) if result.name == "class_rows"] for head in (QueryRows, Sound)
    )
    assert known.passed and unknown.passed and not known.note
    assert unknown.note == "class_rows does not know the rows: other classes start from initial values"


def test_objects_of_equal_scores_may_change_places_with_the_batch():
    assert not failures(TiedScores)


def test_non_scalar_loss_fails():
    found = failures(VectorLoss)
    assert "found losses['label'] of shape (3,); expected a scalar tensor" in found["loss_keys"]


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


class LoopsOverImages(DenseDepth):
    """Its graph is of as many images as are traced."""

    def maps(self, outputs, size):
        return torch.cat(
            [super(LoopsOverImages, self).maps(outputs, size)[i : i + 1] for i in range(len(outputs["map"]))]
        )


class ExportsTheFirst(DenseDepth):
    """Exports the depth of one image."""

    def exported(self, outputs, size, original_size=None):
        return {"depth": self.maps(outputs, size)[0]}


class RemembersTheSize(DenseDepth):
    """The graph divides by the height of the traced images."""

    def exported(self, outputs, size, original_size=None):
        height = torch.tensor(np.array(float(int(outputs["grid"][0]) if torch.compiler.is_exporting() else size[0])))
        return {"depth": self.maps(outputs, size)[:, 0] / height}


class MapsUnread(Segmenter):
    """Returns unused maps."""

    maps = DenseSegmenter.maps


class SqueezedMaps(DenseSegmenter):
    """Resizes maps instead of cropping them."""

    def maps(self, outputs, size):
        return F.interpolate(outputs["map"], tuple(size))


class HalfMaps(DenseSegmenter):
    """Maps in half precision."""

    def maps(self, outputs, size):
        return super().maps(outputs, size).half()


class CoarseMaps(DenseSegmenter):
    """Maps on the head's own grid."""

    def maps(self, outputs, size):
        return outputs["map"]


class ReadsTheWorst(DenseSegmenter):
    """Predicts the least likely class."""

    def read_maps(self, maps):
        return {"semantic": maps.argmin(1).byte()}


class ReadsOtherKeys(DenseSegmenter):
    """Returns the result under another key."""

    def read_maps(self, maps):
        return {"labels": maps.argmax(1)}


class ReadsIndices(DenseSegmenter):
    """Another dtype than predict's."""

    def read_maps(self, maps):
        return {"semantic": maps.argmax(1)}


class ReadsPlaces(DenseDepth):
    """Adds an offset that depends on the position in the input."""

    def on_image(self, outputs, i, target):
        x = self.read_maps(self.maps(outputs, outputs["grid"]))["depth"][i, : target["size"][0], : target["size"][1]]
        return F.interpolate(x[None, None], target["original_size"])[0]

    def predict(self, outputs, targets):
        return [{"depth": self.on_image(outputs, i, t)[0]} for i, t in enumerate(targets)]

    def read_maps(self, maps):
        return {"depth": maps[:, 0] + torch.arange(maps.shape[2])[:, None]}


class MovesAtZoomOne(DenseDepth):
    """Adds the zoom instead of multiplying."""

    def undo_zoom(self, maps, zoom):
        return maps + zoom


class LosesMaps(DenseDepth):
    """Undoes a zoom of one map only."""

    def undo_zoom(self, maps, zoom):
        return maps[:1] * zoom


class WrongMaps(Segmenter):
    """Maps at the resized size."""

    def on_image(self, outputs, i, target):
        return super().on_image(outputs, i, {**target, "original_size": target["size"]})


class Keypoints(Sound):
    """Needs targets that cannot be generated."""

    task, needs = "keypoints", ("gaze",)

    def loss(self, outputs, targets, context):
        raise AssertionError("there is no keypoint to learn from")


@pytest.mark.parametrize(
    "sound", [Sound, Segmenter, Depth, DenseSegmenter, DenseDepth, functools.partial(Sound, width=8)]
)
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


def test_class_indices_of_another_dtype_fail():
    found = failures(IndicesOfClasses)
    assert found.keys() == {"predictions"}
    assert "semantic that has the type int64, for an image of 195 x 383" in found["predictions"]
    assert found["predictions"].endswith("Fix: in predict and read_maps, return semantic.to(torch.uint8).")


def test_predictions_that_the_evaluator_rejects_fail():
    found = failures(DepthWithChannel)
    assert "not 2-D: 1 x 195 x 383 and" in found["predictions"]
    assert "from the evaluator 'depth'" in found["predictions"]


EXPORT = [check.name for check in CHECKS if check.name not in ("construction", "export")]  # skipped


@pytest.mark.integration
def test_exported_outputs_are_checked():
    only = EXPORT
    notes = {result.name: result.note for result in head_checks(Sound, skip=only)}
    assert notes["export"] == "has no exported(): `densevit export` refuses a model with it"
    assert not failures(DenseSegmenter, skip=only) and not failures(DenseDepth, skip=only)
    assert "LoopsOverImages cannot be exported: " in failures(LoopsOverImages, skip=only)["export"]
    assert (
        "exported() with 'depth' of shape (1, 96, 128) for 2 images" in failures(ExportsTheFirst, skip=only)["export"]
    )
    assert "'depth' of the exported file that differs by" in failures(RemembersTheSize, skip=only)["export"]


class ReadsTwice(DenseDepth):
    """Doubles the depth of a file."""

    def predict_exported(self, exported, targets):
        return [{"depth": 2 * depth} for depth in exported["depth"]]


class ReadsNoDepth(DenseDepth):
    """Makes other predictions from a file."""

    def predict_exported(self, exported, targets):
        return [{"inverse_depth": depth} for depth in exported["depth"]]


def test_predictions_from_exported_outputs_are_checked():
    only = [check.name for check in CHECKS if check.name not in ("construction", "exported_predictions")]
    notes = {result.name: result.note for result in head_checks(Sound, skip=only)}
    assert notes["exported_predictions"] == "has no predict_exported(): files of it are not evaluated"
    assert not failures(DenseSegmenter, skip=only) and not failures(DenseDepth, skip=only)
    message = failures(ReadsTwice, skip=only)["exported_predictions"]
    assert "predictions[0]['depth'] that differs from predict's in 100.0% of its values" in message
    message = failures(ReadsNoDepth, skip=only)["exported_predictions"]
    assert """expected the predictions of predict, ["predictions[0]['depth']"]""" in message


class Vectors(Maps, DenseHead):
    """Unit vectors; the maps are not normalised."""

    task, needs = "vectors", ("directions",)

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.out = nn.Conv2d(channels[0], 3, 1)
        self.target_types = {"directions": VectorMap()}

    def loss(self, outputs, targets, context):
        total, count = 0 * outputs["map"].sum(), 0
        for i, target in enumerate(targets):
            if "directions" in target:
                x = F.interpolate(outputs["map"][i : i + 1], outputs["grid"])
                x = x[0, :, : target["size"][0], : target["size"][1]]
                known = (target["directions"] != 0).any(0)
                total = total + ((x - target["directions"]).abs() * known).sum()
                count += int(known.sum())
        return {"l1": total / max(count, 1)}

    def predict(self, outputs, targets):
        return [{"directions": F.normalize(self.on_image(outputs, i, t), dim=0)} for i, t in enumerate(targets)]

    maps = DenseSegmenter.maps

    def read_maps(self, maps):
        return {"directions": F.normalize(maps, dim=1)}


class SwapsVectors(Vectors):
    def read_maps(self, maps):
        return {"directions": F.normalize(maps.flip(1), dim=1)}


class OneChannel(Vectors):
    def read_maps(self, maps):
        return {"directions": F.normalize(maps, dim=1)[:, 0]}


@pytest.mark.integration
def test_maps_of_vectors_are_checked():
    assert not failures(Vectors)
    for wrong in (SwapsVectors, OneChannel):
        assert "directions that differs between read_maps" in failures(wrong, skip=("export",))["maps"]


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
        (Vectors, set()),
        (ReadsInfinity, {"unlabelled_values", "unlabelled_pixels"}),
        (MeanOfMaps, {"unlabelled_values"}),
        (IgnoredIsBackground, {"unlabelled_values", "unlabelled_pixels"}),
        (ClassOfMaps, {"unlabelled_values"}),
        (Segments, {"crowds"}),
    ],
)
def test_values_that_label_nothing_are_not_learned(head, failed):
    names = {"construction", "determinism", "unlabelled_values", "unlabelled_pixels", "crowds"}
    found = failures(head, skip=[one.name for one in CHECKS if one.name not in names])
    assert found.keys() == failed, found


def test_maps_of_another_size_fail():
    assert failures(WrongMaps).keys() == {"predictions", "original_pixels"}


WRONG_MAPS = [
    (MapsUnread, "found maps() of MapsUnread, which is not a DenseHead; expected a subclass of DenseHead"),
    (SqueezedMaps, "maps that are resized to a smaller size"),
    (HalfMaps, "of torch.float16"),
    (CoarseMaps, "expected torch.float32 (3, C, 96, 128)"),
    (ReadsTheWorst, "semantic that differs between read_maps(maps(outputs, grid)) and predict"),
    (ReadsIndices, "semantic that differs between"),
    (ReadsOtherKeys, "read_maps that gives labels"),
    (ReadsPlaces, "depth that differs where read_maps gets a part"),
    (MovesAtZoomOne, "undo_zoom(maps, 1.0) of (3, 1, 96, 128) that changes maps"),
    (LosesMaps, "undo_zoom(maps, 1.0) of (1, 1, 96, 128)"),
]


@pytest.mark.parametrize(
    ("broken", "found"), WRONG_MAPS, ids=lambda value: value.__name__ if isinstance(value, type) else ""
)
def test_maps_that_windows_cannot_average_fail(broken, found):
    failed = failures(broken, skip=("export",))
    assert failed.keys() == {"maps"}
    assert found in failed["maps"]


@pytest.mark.integration
@pytest.mark.parametrize("broken", [broken for broken, _ in WRONG_MAPS], ids=lambda broken: broken.__name__)
def test_maps_that_windows_cannot_average_do_not_fail_the_export(broken):
    assert not failures(broken, skip=EXPORT)


def test_head_with_custom_targets_is_checked_except_for_losses():
    results = {result.name: result for result in check_head(Keypoints)}
    assert "for gaze" in results["construction"].note
    assert results["loss_keys"].note == "not checked: there are no random targets for gaze"
    assert results["padding"].note == "padding within 96 pixels of the image is not checked: convolutions may use it"


@pytest.mark.integration
@pytest.mark.parametrize(
    "options",
    [{}, {"classification": "mal", "extensions": Extensions(stride=16, fusion_blocks=1, denoising=2)}],
    ids=["detr", "dab_detr"],
)
def test_detr_passes(options):
    name = "dab_detr" if options else "detr"
    size = {"num_queries": 5, "transformer": Transformer(32, 2, 1, 2, 32)}
    head = functools.partial(registry.load("heads", name), **size, **options)
    results = {result.name: result for result in check_head(head)}
    assert results["registration"].note.startswith(f"found as {name!r}, from densevit ")
    zero = "" if options else "a gradient of exactly 0 in decoder.0.self_attention.value.weight"
    assert results["parameter_gradients"].note == zero  # queries are initialised to zero


def test_custom_features():
    assert failures(FourLevels, channels=(8, 8, 8, 8, 8), strides=(2, 4, 8, 16, 32)).keys() == {
        "one_level",
        "equal_strides",
    }
    with pytest.raises(CheckFailed, match="SeesPadding fails 1 of 33 checks"):
        check_head(functools.partial(SeesPadding))
