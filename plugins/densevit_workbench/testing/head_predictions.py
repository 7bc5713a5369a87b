"""Checks of a head's predictions: types, boxes inside the image, original pixels, independence of padding."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from densevit import registry
from densevit.errors import DataError
from densevit.interfaces import Dataset, Head, Predictions, Targets
from densevit.targets import InstanceMasks
from densevit.targets.target_class_mapping import with_classes
from densevit.targets.types import TargetTypes, as_array
from densevit.training.loop.evaluator_factory import create_evaluator
from densevit.weights.class_rows import rows_from, rows_per_class
from densevit_workbench.testing.check_results import Failure, NotChecked, check, described, require
from densevit_workbench.testing.fixtures import ROUNDING, difference, require_equal
from densevit_workbench.testing.head_fixtures import HeadBatch, HeadFixture, flattened
from densevit_workbench.testing.head_losses import RUNS
from densevit_workbench.testing.targets import check_prediction, random_targets

_PREDICTS = "let predict work on outputs of eval(), and on targets with size and original_size alone"


@check("predictions of the task", _PREDICTS)
def predictions(fixture: HeadFixture) -> str:
    """predict returns a dict per image, with the keys of the task, and documented types and shapes."""
    head = fixture.build()
    for scale in (1.0, 10.0):
        batch = fixture.batch(scale=scale)
        predictions = fixture.predictions(head, batch)
        what = f"{len(predictions)} predictions" if isinstance(predictions, list) else f"a {type(predictions).__name__}"
        require(
            isinstance(predictions, list) and len(predictions) == len(batch.targets),
            f"{what} for {len(batch.targets)} images",
            "a list of one dict per image",
            "return a list",
        )
        for prediction, target in zip(predictions, batch.targets, strict=True):
            expected = _read_by_evaluator(fixture.task)
            for keys in expected:
                require(
                    not prediction.keys().isdisjoint(keys),
                    f"predictions of {', '.join(prediction) or 'nothing'}",
                    f"{', '.join(map(' or '.join, expected))}, the keys of {fixture.task}",
                    f"return {keys[0]!r} too",
                )
            _check_depth_type(prediction, head)
            _check_types(prediction, target, len(head.classes), fixture.types)
        _check_by_evaluators(fixture, head, predictions, batch)
    unknown = [key for key in predictions[0] if key not in fixture.types]
    return f"{', '.join(unknown)}: keys without a target type, their values are not checked" if unknown else ""


def _read_by_evaluator(task: str) -> list[tuple[str, ...]]:
    """Keys read by the default evaluator of a task; a prediction needs one key of each tuple."""
    if task not in registry.find("evaluators"):
        return []
    return [(keys,) if isinstance(keys, str) else keys for keys in registry.load("evaluators", task).reads]


def _check_depth_type(prediction: Predictions, head: Head) -> None:
    """`depth_type` must match the predictions: checks of the data's unit and alignment in evaluation depend on it."""
    relative = "inverse_depth" in prediction and "depth" not in prediction
    require(
        head.depth_type in prediction or (head.depth_type is None and not relative),
        f"predictions of {', '.join(prediction)} and a depth_type of {head.depth_type!r}",
        "the predicted type: depth (metres) or inverse_depth (relative)",
        f"set depth_type = {'inverse_depth' if relative else 'depth'!r} in the class, or in its constructor",
    )


def _check_types(prediction: Predictions, target: Targets, K: int, types: TargetTypes) -> None:
    size = tuple(target["original_size"])
    for key in (key for key in prediction if key in types):
        value = prediction[key]
        require(isinstance(value, Tensor), f"{key} of type {type(value).__name__}", "a tensor", "return tensors")
        require(value.isfinite().all(), f"{key} that are not finite", "finite numbers", "clamp before exp and log")
        try:
            check_prediction(types[key], as_array(value), size, K)
        except DataError as error:
            actual, _, expected = str(error).rstrip(".").partition("; expected ")
            fix = (
                "crop maps to target['size'], then resize them to target['original_size']; return class indices in "
                "0 ... K-1 without 'no object', scores as probabilities, depth in metres"
            )
            if actual.startswith("has the type"):
                fix = f"in predict{' and read_maps' * (types[key].per == 'pixel')}, return {key}{_cast(expected)}"
            raise Failure(
                f"{key} that {actual}, for an image of {size[0]} x {size[1]} in original pixels",
                expected or "valid values",
                fix,
            ) from None
    lengths = {key: len(prediction[key]) for key in prediction if key in types and types[key].per == "object"}
    require(
        len(set(lengths.values())) <= 1,
        ", ".join(f"{count} {key}" for key, count in lengths.items()),
        "one row per object in each",
        "select all with the same indices",
    )


def _cast(expected: str) -> str:
    return f".to(torch.{expected})" if hasattr(torch, expected) else ".float()" if "float" in expected else ".int()"


def _check_by_evaluators(
    fixture: HeadFixture, head: Head, predictions: Sequence[Predictions], batch: HeadBatch
) -> None:
    """Evaluates predictions like a validation, against random ground truth in original pixels.

    Only densevit's evaluators are used: evaluators of others may need targets that have no random values.
    """
    generator = torch.Generator().manual_seed(0)
    data = Dataset()
    data.classes = {"detection": tuple(c for c in head.classes if c.thing), fixture.task: head.classes}
    data.provides = head.required_targets
    plugins = registry.find("evaluators")
    for name in (fixture.task, *(["coco_masks"] if "masks" in predictions[0] else [])):
        if name not in plugins or not plugins[name].value.startswith("densevit."):
            continue
        evaluator = create_evaluator(name, head.classes)
        keys = [key for keys in _read_by_evaluator(name) for key in keys]
        truths = [
            random_targets(keys, target["original_size"], len(head.classes), generator, 3, i, None, fixture.types)
            for i, target in enumerate(batch.targets)
        ]
        try:
            evaluator.prepare(head, data)
            evaluator.update(predictions, truths)
            evaluator.metrics()
        except Exception as error:
            raise Failure(
                f"{described(error)}, from the evaluator {name!r}",
                "predictions that validation can evaluate",
                "return the dtypes and sizes of docs/own-head.md",
            ) from None


@check("boxes inside the image", _PREDICTS)
def inside_image(fixture: HeadFixture) -> None:
    """Boxes are xyxy corners inside the image."""
    head = fixture.build()
    for scale in (1.0, 10.0):
        batch = fixture.batch(scale=scale)
        for prediction, target in zip(fixture.predictions(head, batch), batch.targets, strict=True):
            if "boxes" not in prediction:
                raise NotChecked("no boxes")
            h, w = target["original_size"]
            boxes, slack = prediction["boxes"].double(), 1e-3 * max(h, w)
            if not len(boxes):
                continue
            low, high = (x.tolist() for x in boxes.aminmax(dim=0))
            require(
                min(low) >= -slack and max(high[0::2]) <= w + slack and max(high[1::2]) <= h + slack,
                f"boxes from {[round(x, 1) for x in low]} to {[round(x, 1) for x in high]} in an image of {h} x {w}",
                "x0, y0, x1, y1 inside the image",
                "clamp boxes to [0, 1] of the image without padding before scaling them",
            )
            require(
                (boxes[:, :2] <= boxes[:, 2:] + slack).all(),
                "boxes whose x1 or y1 is below x0 or y0",
                "x0 <= x1, y0 <= y1",
                "convert cxcywh to corners",
            )


@check("results in original pixels", _PREDICTS)
def original_pixels(fixture: HeadFixture) -> None:
    """Predictions are in original pixels and scale with `original_size`, here by 2 in height and 3 in width."""
    head, batch = fixture.build().eval(), fixture.batch()
    targets = batch.unlabelled()
    scaled = [{**t, "original_size": (2 * t["original_size"][0], 3 * t["original_size"][1])} for t in targets]
    with torch.no_grad():
        outputs = head(batch.copies(), batch.padding_mask)
        before, after = head.predict(outputs, targets), head.predict(outputs, scaled)
    keys = [key for key in before[0] if key in fixture.types and fixture.types[key].per != "image"]
    if not keys:
        raise NotChecked("no known predictions in pixels")
    for a, b, old, new in zip(before, after, targets, scaled, strict=True):
        for key in keys:
            old_size, size = tuple(old["original_size"]), tuple(new["original_size"])
            target_type = fixture.types[key]
            if target_type.per == "pixel" or isinstance(target_type, InstanceMasks):
                require(
                    tuple(b[key].shape[-2:]) == size,
                    f"{key} of shape {tuple(b[key].shape)}",
                    f"a map of {size}, the original_size",
                    "crop maps to `size` and resize them to `original_size`",
                )
            else:
                expected = target_type.resize(as_array(a[key]), old_size, size)
                require(
                    difference(b[key], torch.from_numpy(np.asarray(expected))) <= 1e-3,
                    f"{key} that do not scale with original_size",
                    f"{key} in original pixels, height and width each by its own factor",
                    "scale x by original_size[1] and y by original_size[0]",
                )


@check("predictions without labels", _PREDICTS)
def targets_unread(fixture: HeadFixture) -> None:
    """predict uses `size` and `original_size` only: labels do not change the predictions."""
    head, batch = fixture.build().eval(), fixture.batch()
    with torch.no_grad():
        outputs = head(batch.copies(), batch.padding_mask)
        without, with_labels = head.predict(outputs, batch.unlabelled()), head.predict(outputs, batch.targets)
    require_equal(
        flattened(with_labels),
        flattened(without),
        "{name} that differs if targets have labels",
        "use size and original_size only in predict",
        tolerance=0,
    )


@check("rows of classes, for loading weights with other classes", RUNS)
def class_rows(fixture: HeadFixture) -> str:
    """A head with reordered classes, loaded by the rows of `class_rows`, makes the same predictions."""
    head, order = fixture.build(), (2, 0, 3, 1)
    depending = rows_per_class(head, fixture.build(classes=5))
    if not depending:
        raise NotChecked("no tensor depends on the number of classes")
    other = fixture.build(seed=1, order=order)
    state, unknown = head.state_dict(), []
    for key, count in depending.items():
        rows = rows_from(other, head, key, state[key], dict(enumerate(order)), count)
        unknown += [key] if rows is None else []
        state[key] = state[key] if rows is None else rows
    if len(unknown) == len(depending):
        raise NotChecked("class_rows does not know the rows: other classes start from initial values")
    require(
        not unknown,
        f"no rows, or not one row per added row, for {', '.join(unknown)}",
        "(K, R) indices for each tensor whose shape depends on the classes, or for none",
        "implement class_rows(name, rows)",
    )
    other.load_state_dict(state)
    batch, table = fixture.batch(scale=3.0), np.argsort(order)
    predictions, expected = (fixture.predictions(module, batch) for module in (other, head))
    renumbered = [with_classes(p, lambda task: (table, other.classes), fixture.types) for p in expected]
    require_equal(
        _by_column(fixture, predictions),
        _by_column(fixture, renumbered),
        "{name} that differs by {difference} with the rows of classes in another order",
        "implement class_rows(name, rows), the rows of each class, or (K, 0) if they are not known",
        tolerance=10 * ROUNDING,
    )
    return ""


@check("predictions that ignore padding", RUNS)
def padding(fixture: HeadFixture) -> str:
    """Features of padding do not change the predictions of an image."""
    head, reach, strides = fixture.build(), fixture.reach, fixture.levels.strides
    coarsest = max(strides)
    side = 6 * coarsest + reach
    batch = fixture.batch(size=(side, side), images=((2 * coarsest, 3 * coarsest), (side, side)))
    changed = batch.copies()
    for x, stride in zip(changed, strides, strict=True):
        first = -(-(3 * coarsest + reach) // stride)
        x[0, :, first:] = 5 * torch.randn_like(x[0, :, first:]) + 3
        x[0, :, :, first:] = 5 * torch.randn_like(x[0, :, :, first:]) + 3
    require_equal(
        flattened(fixture.predictions(head, batch._replace(features=changed))[:1]),
        flattened(fixture.predictions(head, batch)[:1]),
        f"{{name}} that changes by {{difference}} with features of padding {reach} or more pixels outside the image",
        "mask padding: masked attention (densevit.layers.positions.mask_on_grid), masked means, features set to 0 "
        "before convolutions",
        wanted="the same predictions: padding has no content",
    )
    return f"padding within {reach} pixels of the image is not checked: convolutions may use it" if reach else ""


@check("the same predictions alone and in a batch", RUNS)
def batch_independence(fixture: HeadFixture) -> None:
    """In evaluation mode, predictions of an image do not depend on the rest of its batch."""
    head, batch = fixture.shared(), fixture.batch()
    changed = batch._replace(features=[torch.cat([x[:1], 10 * x[1:]]) for x in batch.features])
    require_equal(
        _by_column(fixture, fixture.predictions(head, changed)[:1]),
        _by_column(fixture, fixture.predictions(head, batch.first())),
        f"{{name}} that differs by {{difference}}, alone and in a batch of {len(batch.targets)}",
        "do not normalise over the batch in eval(), and keep dimension 0 in reshapes",
        tolerance=10 * ROUNDING,
    )


def _by_column(fixture: HeadFixture, predictions: Sequence[Predictions]) -> dict[str, Tensor]:
    """All tensors, with each column sorted over objects, because rounding may reorder almost equal scores."""
    types = fixture.types
    per_object = {key for key in predictions[0] if key in types and types[key].per == "object"}
    return flattened(
        [
            {key: x.sort(dim=0).values if key in per_object and isinstance(x, Tensor) else x for key, x in p.items()}
            for p in predictions
        ]
    )
