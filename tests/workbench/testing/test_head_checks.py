"""The head contract tests: valid heads pass, and each broken one fails the corresponding check."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit.interfaces import Head
from densevit.layers.positions import mask_on_grid
from densevit.testing import head_checks


class Sound(Head):
    """Boxes from the mean of each feature; the i-th box is matched to the i-th object."""

    task = "detection"
    required_targets = ("boxes", "labels")

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


def changed(init=None, required_targets=Sound.required_targets, **changes):
    """A `Sound` with other results of methods, by functions of (result, head, *arguments); `init` ends its constructor.

    It is no class of a module: `failures` leaves out the checks that need one.
    """

    def method(name, change):
        original = getattr(Sound, name, lambda *_: None)
        return lambda self, *arguments: change(original(self, *arguments), self, *arguments)

    def constructor(self, channels, strides, classes):
        Sound.__init__(self, channels, strides, classes)
        if init is not None:
            init(self, channels, strides)

    methods = {name: method(name, change) for name, change in changes.items()}
    return type("Changed", (Sound,), {"__init__": constructor, "required_targets": required_targets, **methods})


def each(change):
    """A change of the predictions of each image."""
    return lambda found, head, outputs, targets: [change(p, t) for p, t in zip(found, targets, strict=True)]


def four_levels(head, channels, strides):
    head.finest_of_four = strides[-4]


def whole_cells(outputs, head, features, padding_mask, *_):
    padding_mask.unflatten(1, (-1, 32)).unflatten(3, (-1, 32))
    return outputs


def missing_key(losses, head, outputs, targets, context):
    return losses if any(len(target.get("boxes", ())) for target in targets) else {"label": losses["label"]}


def mean_over_nothing(losses, head, outputs, targets, context):
    objects = sum(len(targets[i]["boxes"]) for i in head.labelled(targets))
    return {**losses, "l1": losses["l1"] / objects} if head.labelled(targets) else losses


def loose_without_labels(losses, head, outputs, targets, context):
    return losses if head.labelled(targets) else {name: torch.zeros(()) for name in losses}


def divided_by_batch(losses, head, outputs, targets, context):
    return {name: value * len(head.labelled(targets)) / len(targets) for name, value in losses.items()}


def scaled_targets(losses, head, outputs, targets, context):
    for target in targets:
        if "boxes" in target:
            target["boxes"] /= 2
    return losses


def failures(factory, skip=("export",), **options):
    """Messages of failed checks, by name."""
    skip = (*skip, "registration", "pickling") if getattr(factory, "__name__", "") == "Changed" else skip
    return {result.name: result.message for result in head_checks(factory, skip=skip, **options) if not result.passed}


@pytest.mark.parametrize(
    ("checks", "broken"),
    [  # the checks that fail, and what fails them
        ("construction", changed(required_targets="boxes")),
        ("one_level equal_strides", changed(init=four_levels)),
        (
            "one_class",
            changed(predict=lambda _, head, x, t: Sound.predict(head, {**x, "logits": x["logits"][..., :-1]}, t)),
        ),
        ("odd_sizes", changed(forward=whole_cells)),
        ("loss_keys", changed(loss=missing_key)),
        ("empty_targets", changed(loss=mean_over_nothing)),
        ("unlabelled", changed(loss=loose_without_labels)),
        ("partly_labelled", changed(loss=divided_by_batch)),
        ("parameter_gradients", changed(init=lambda head, *_: setattr(head, "scale", nn.Parameter(torch.ones(()))))),
        ("inputs_unchanged", changed(loss=scaled_targets)),
        ("predictions", changed(predict=each(lambda p, t: {**p, "labels": p["labels"] + 1}))),
        ("inside_image", changed(in_pixels=lambda boxes, *_: 1.5 * boxes)),
        (
            "original_pixels",
            changed(in_pixels=lambda _, head, boxes, t: Sound.in_pixels(head, boxes, {"original_size": (16, 16)})),
        ),
        (
            "targets_unread",
            changed(predict=each(lambda p, t: {**p, "scores": p["scores"] * (0.5 if "boxes" in t else 1)})),
        ),
        ("padding", changed(pooled=lambda _, head, x, mask: Sound.pooled(head, x, torch.zeros_like(mask)))),
        ("batch_independence partly_labelled", changed(pooled=lambda x, *_: x - x.mean(0))),
        ("determinism", changed(pooled=lambda x, *_: F.dropout(x, 0.5))),
        ("class_rows", changed(class_rows=lambda _, head, name, rows: torch.arange(rows).view(len(head.classes), -1))),
    ],
)
def test_broken_head_fails_the_named_checks(checks, broken):
    assert failures(broken).keys() == set(checks.split())


def tied_scores(found, head, outputs, targets):
    """Objects of one score, whose order depends on the size of the batch, as rounding does."""
    found = [{**one, "scores": torch.full_like(one["scores"], 0.5)} for one in found]
    return found if len(targets) == 1 else [{key: value.flip(0) for key, value in one.items()} for one in found]


def test_valid_head_passes():
    assert failures(functools.partial(Sound, width=8), skip=()) == {}
    assert failures(changed(predict=tied_scores)) == {}
