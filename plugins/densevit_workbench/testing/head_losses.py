"""Checks of a head's construction, inputs and losses."""

import numpy as np
import torch
from torch import Tensor

from densevit.interfaces import Head, LossContext, Losses
from densevit.targets.types import as_array
from densevit_workbench.testing.check_results import check, require
from densevit_workbench.testing.fixtures import Size, require_class, require_new
from densevit_workbench.testing.gradients import listed
from densevit_workbench.testing.head_fixtures import GRID, IMAGES, FeatureLevels, HeadFixture, total

TOLERANCE = 1e-4  # for another order of summation, relative to the value
RUNS = "use the channels and strides of the constructor and the sizes of the features: none of them is fixed"
_DTYPES = "follow dtypes: x.to(y.dtype); compute losses in float32 with autocast off"
_LABELLED = "test `'boxes' in target` first"


@check("a new Head", "take (channels, strides, classes) first", required=True)
def construction(fixture: HeadFixture) -> str:
    """The factory returns a new Head at each call, with task, required_targets and classes."""
    head = fixture.build()  # sets fixture.task, which determines the classes of the second head
    task, required_targets = getattr(head, "task", None), getattr(head, "required_targets", None)
    require_class(head, Head)
    require(
        task and isinstance(task, str),
        f"task = {task!r}",
        "a word, such as 'detection'",
        "write `task = 'detection'` in the class",
    )
    require(
        isinstance(required_targets, tuple) and all(isinstance(key, str) for key in required_targets),
        f"required_targets = {required_targets!r}",
        "a tuple of target keys",
        "write `required_targets = ('boxes', 'labels')` in the class",
    )
    other = fixture.build()
    require_new(head, other)
    classes = getattr(other, "classes", ())
    require(
        tuple(classes) == fixture.classes(4),
        f"classes = {classes!r}",
        "the classes that the constructor got",
        "call super().__init__(channels, strides, classes)",
    )
    return f"losses are not checked: there are no random targets for {fixture.unknown}" if fixture.unknown else ""


@check("training and prediction on several levels", RUNS)
def several_levels(fixture: HeadFixture) -> None:
    """The head runs on features of several strides."""
    _run(fixture)


@check("training and prediction on one level", RUNS)
def one_level(fixture: HeadFixture) -> None:
    """The head runs on one feature, as from a plain ViT."""
    _run(fixture, FeatureLevels(fixture.levels.channels[-1:], fixture.levels.strides[-1:]))


@check("training and prediction on two levels of one stride", RUNS)
def equal_strides(fixture: HeadFixture) -> None:
    """The head runs on two features of one stride, in order of depth."""
    channels = fixture.levels.channels[-2:]
    _run(fixture, FeatureLevels(channels, fixture.levels.strides[-1:] * len(channels)))


@check("training and prediction with one class", "support K = 1")
def one_class(fixture: HeadFixture) -> str:
    """The head runs with a single class."""
    if fixture.task == "depth":
        return "depth has no classes"
    _run(fixture, classes=1)
    return ""


@check("training and prediction at odd sizes", RUNS)
def odd_sizes(fixture: HeadFixture) -> None:
    """The head runs on batches of odd sizes."""
    for h, w in ((33, 47), (61, 97)):
        _run(fixture, size=(h, w), images=((h, w), (h - 10, w - 17)))


def _run(
    fixture: HeadFixture,
    levels: FeatureLevels | None = None,
    classes: int = 4,
    size: Size = GRID,
    images: tuple[Size, ...] = IMAGES,
) -> None:
    """Requires that training and prediction run, with a finite loss."""
    head = fixture.build(levels=levels, classes=classes)
    batch = fixture.batch(levels, size, images, classes)
    if not fixture.unknown:
        losses = fixture.train_losses(head, batch)
        strides = (levels or fixture.levels).strides
        _require_finite(losses, f"on features of strides {strides} for images of {size[0]} x {size[1]}")
        total(losses).backward()
    count = len(fixture.predictions(head, batch))
    require(
        count == len(images),
        f"{count} predictions for {len(images)} images",
        "one per image",
        "return a dict for each target",
    )


@check("the same losses for any labels", "support any mixture of labelled and unlabelled images")
def loss_keys(fixture: HeadFixture) -> None:
    """Losses are scalars with the same keys for any labels, in training and evaluation mode."""
    fixture.require_labels()
    head = fixture.build()
    expected: list[str] = []
    batches = {
        "labelled images": fixture.batch(),
        "images without objects": fixture.batch(objects=(0, 0, 0)),
        "unlabelled images": fixture.batch(labelled=(False, False, False)),
        "one labelled and two unlabelled images": fixture.batch(labelled=(True, False, False)),
    }
    for what, batch in batches.items():
        for training in (True, False):
            outputs = head.train(training)(batch.copies(), batch.padding_mask, batch.targets if training else None)
            losses = head.loss(outputs, batch.targets, LossContext())
            type_name = type(losses).__name__
            require(
                isinstance(losses, dict) and losses,
                f"losses of type {type_name}",
                "a dict of scalars by name",
                "name each term",
            )
            for name, value in losses.items():
                actual = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                require(actual == "of shape ()", f"losses[{name!r}] {actual}", "a scalar tensor", "sum or average it")
            expected = expected or sorted(losses)
            require(
                sorted(losses) == expected,
                f"losses {', '.join(sorted(losses))} for {what}, {'training' if training else 'evaluation'}",
                f"{', '.join(expected)}, always the same keys: they are summed over processes",
                "return every term always: 0, connected to the outputs, if there is nothing to learn",
            )


@check("a loss for images without objects", "support N = 0")
def empty_targets(fixture: HeadFixture) -> None:
    """The loss and its gradients are finite if some or all images have no objects."""
    fixture.require_labels()
    for what, objects in (("no object in any image", (0, 0, 0)), ("no object in one image", (3, 0, 1))):
        head = fixture.build()
        losses = fixture.train_losses(head, fixture.batch(objects=objects))
        _require_finite(losses, f"with {what}")
        total(losses).backward()
        for name, parameter in head.named_parameters():
            require(
                parameter.grad is None or parameter.grad.isfinite().all(),
                f"a gradient of {name} that is not finite with {what}",
                "finite gradients",
                "divide by a count of at least 1, and take no mean over an empty tensor",
            )


@check("a loss of 0 without labels", _LABELLED)
def unlabelled(fixture: HeadFixture) -> None:
    """Without labels, every loss is exactly 0 and still connected to every parameter."""
    fixture.require_labels()
    head = fixture.build()
    total(fixture.train_losses(head, fixture.batch())).backward()
    trained = {name: p for name, p in head.named_parameters() if p.grad is not None}
    head.zero_grad(set_to_none=True)
    losses = fixture.train_losses(head, fixture.batch(labelled=(False, False, False)))
    for name, value in losses.items():
        require(
            float(value) == 0,
            f"losses[{name!r}] = {float(value):.4g} where no image has {' or '.join(fixture.required_targets)}",
            "exactly 0: a missing key means unlabelled, not empty",
            "use only images whose targets have all keys of `required_targets`",
        )
    if (loss := total(losses)).requires_grad:
        loss.backward()
    missing = [name for name, p in trained.items() if p.grad is None]
    require(
        not missing,
        f"a loss without labels that is not connected to {listed(missing, 4)}",
        "a path to every parameter: in distributed training all processes wait for all gradients",
        "return `outputs.sum() * 0` for the term, not a new tensor",
    )


@check("unlabelled images left out", _LABELLED)
def partly_labelled(fixture: HeadFixture) -> None:
    """Unlabelled images do not change the losses."""
    fixture.require_labels()
    head = fixture.build().eval()
    batch, other = (fixture.batch(images=(GRID, GRID), labelled=(True, False)) for _ in range(2))
    with torch.no_grad():
        both, alone = (
            head.loss(head(b.copies(), b.padding_mask), b.targets, LossContext()) for b in (batch, other.first())
        )
    for name in alone.keys() & both.keys():
        actual, expected = float(both[name]), float(alone[name])
        require(
            abs(actual - expected) <= TOLERANCE * max(abs(expected), 1e-3),
            f"losses[{name!r}] = {actual:.6g} for an image in a batch with an unlabelled one",
            f"{expected:.6g}, as without the unlabelled image",
            "leave out images that lack a key of `required_targets`, in sums and in their divisors",
        )


@check("a finite loss under bf16 autocast", _DTYPES)
def autocast_bfloat16(fixture: HeadFixture) -> None:
    """The loss is finite under bf16 autocast, for small and large features."""
    _autocast(fixture, torch.bfloat16)


@check("a finite loss under fp16 autocast", _DTYPES)
def autocast_float16(fixture: HeadFixture) -> None:
    """The loss is finite under fp16 autocast, for small and large features."""
    _autocast(fixture, torch.float16)


def _autocast(fixture: HeadFixture, dtype: torch.dtype) -> None:
    fixture.require_labels()
    head = fixture.build()
    for scale in (0.0, 1.0, 30.0):
        for feature_dtype in (torch.float32, dtype):  # a backbone under autocast may return either dtype
            batch = fixture.batch(scale=scale)
            batch = batch._replace(features=[x.to(feature_dtype) for x in batch.features])
            with torch.autocast("cpu", dtype=dtype):
                losses = fixture.train_losses(head, batch)
            _require_finite(
                losses, f"under {dtype} autocast, for features of {feature_dtype} and standard deviation {scale:g}"
            )


@check("features and targets that are not modified", RUNS)
def inputs_unchanged(fixture: HeadFixture) -> None:
    """forward, loss and predict do not modify features and targets."""
    head, batch, expected = fixture.build(), fixture.batch(), fixture.batch()
    with torch.no_grad():
        outputs = head.train()(list(batch.features), batch.padding_mask, batch.targets)
        if not fixture.unknown:
            head.loss(outputs, batch.targets, LossContext())
        head.predict(head.eval()(list(batch.features), batch.padding_mask), batch.targets)
    for i, (x, before) in enumerate(zip(batch.features, expected.features, strict=True)):
        actual = f"features[{i}] modified"
        require(
            torch.equal(x, before), actual, "unchanged features: other heads use them", "write x = x + y, not x += y"
        )
    for target, original in zip(batch.targets, expected.targets, strict=True):
        same = target.keys() == original.keys() and all(
            np.array_equal(as_array(value), as_array(original[key])) for key, value in target.items()
        )
        require(same, "targets modified", "unchanged targets", "copy what is scaled: boxes / size, not /=")


def _require_finite(losses: Losses, where: str) -> None:
    for name, value in losses.items():
        require(
            value.isfinite().all(),
            f"losses[{name!r}] = {value.tolist()} {where}",
            "a finite loss",
            "compute losses in float32 with autocast off, divide by at least 1, and clamp before log",
        )
