"""Checks of a head's predictions: inside the picture, in its original pixels, and independent of padding."""

from typing import Any

import torch
from torch import Tensor

from densevit.interfaces import Head, Predictions, Targets
from densevit.testing.head_subject import HeadBatch, HeadSubject, flattened
from densevit.testing.results import Failure
from densevit.testing.subjects import difference, worst

ROUNDING = 1e-4  # of the largest value: what another order of summation may change
EXPECTED = {"detection": ("boxes", "scores", "labels"), "segmentation": ("semantic",), "depth": ("depth",)}
EITHER = {"depth": "inverse_depth"}  # what a relative head gives in its place


def predictions(subject: HeadSubject) -> str | None:
    """A dict an image, with what its task has, of the right types and lengths."""
    head = subject.build()
    for scale in (1.0, 10.0):
        batch = subject.batch(scale=scale)
        found = subject.predictions(head, batch)
        if not isinstance(found, list) or len(found) != len(batch.targets):
            what = f"{len(found)} predictions" if isinstance(found, list) else f"a {type(found).__name__}"
            raise Failure(f"{what} for {len(batch.targets)} images", "a list of one dict an image", "return a list")
        for prediction, target in zip(found, batch.targets, strict=True):
            for key in EXPECTED.get(subject.task, ()):
                if key not in prediction and EITHER.get(key) not in prediction:
                    raise Failure(
                        f"predictions of {', '.join(prediction) or 'nothing'}",
                        f"{', '.join(EXPECTED[subject.task])}, as {subject.task} has it",
                        f"return {key!r} too",
                    )
            _check_quantity(prediction, head)
            _check_types(prediction, target, len(head.classes))
    known = {"boxes", "scores", "labels", "masks", "semantic", "depth", "inverse_depth"} & found[0].keys()
    return None if known else f"{', '.join(found[0])}: not known to the kit, their values are not checked"


def _check_quantity(prediction: Predictions, head: Head) -> None:
    """That `quantity` names what comes out: data in metres and the alignment in evaluation go by it."""
    relative = "inverse_depth" in prediction and "depth" not in prediction
    if (head.quantity is not None and head.quantity not in prediction) or (relative and head.quantity is None):
        keys = ", ".join(prediction)
        raise Failure(
            f"predictions of {keys} and a quantity of {head.quantity!r}",
            "the one of depth (metres) and inverse_depth (relative) that is predicted",
            f"set quantity = {'inverse_depth' if relative else 'depth'!r} in the class, or in its constructor",
        )


def _check_types(prediction: Predictions, target: Targets, K: int) -> None:
    N = len(prediction["boxes"]) if "boxes" in prediction else len(prediction.get("scores", ()))
    picture = tuple(target["original_size"])
    rules: dict[str, tuple[tuple[int, ...], str, Any]] = {
        "boxes": ((N, 4), "a floating-point tensor", torch.is_floating_point),
        "scores": ((N,), "a floating-point tensor", torch.is_floating_point),
        "labels": ((N,), "an int64 tensor", lambda x: x.dtype == torch.int64),
        "masks": ((N, *picture), "a bool tensor", lambda x: x.dtype == torch.bool),
        "semantic": (
            picture,
            "a tensor of whole numbers",
            lambda x: not x.is_floating_point() and x.dtype != torch.bool,
        ),
        "depth": (picture, "a floating-point tensor", torch.is_floating_point),
        "inverse_depth": (picture, "a floating-point tensor", torch.is_floating_point),
    }
    for key, (shape, kind, holds) in rules.items():
        if key not in prediction:
            continue
        value = prediction[key]
        if not isinstance(value, Tensor) or tuple(value.shape) != shape or not holds(value):
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise Failure(
                f"{key}: {found} for a picture of {picture[0]} x {picture[1]} in original pixels",
                f"{kind} of shape {shape}",
                "bring maps to target['original_size'], cropped to target['size'] first, and give lists one length",
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise Failure(f"{key} that are not finite", "finite numbers", "clamp before exp and log")
    _check_range(prediction, "scores", 0, 1)
    for key in ("labels", "semantic"):
        _check_range(prediction, key, 0, K - 1)
    _check_range(prediction, "depth", 0, float("inf"))


def _check_range(prediction: Predictions, key: str, low: float, high: float) -> None:
    value = prediction.get(key)
    if value is not None and value.numel() and not (low <= float(value.min()) and float(value.max()) <= high):
        raise Failure(
            f"{key} from {float(value.min()):.4g} to {float(value.max()):.4g}",
            f"{low} ... {high:g}",
            "classes are indices 0 ... K-1 without 'no object', scores probabilities, depths metres",
        )


def inside_picture(subject: HeadSubject) -> str | None:
    """Boxes are x0, y0, x1, y1 inside the picture."""
    head = subject.build()
    for scale in (1.0, 10.0):
        batch = subject.batch(scale=scale)
        for prediction, target in zip(subject.predictions(head, batch), batch.targets, strict=True):
            if "boxes" not in prediction:
                return "no boxes"
            boxes, (h, w) = prediction["boxes"].double(), target["original_size"]
            if not len(boxes):
                continue
            slack = 1e-3 * max(h, w)
            low, high = boxes.min(0).values, boxes.max(0).values
            if min(low) < -slack or max(high[0], high[2]) > w + slack or max(high[1], high[3]) > h + slack:
                raise Failure(
                    f"boxes from {[round(float(x), 1) for x in low]} to {[round(float(x), 1) for x in high]} in a "
                    f"picture of {h} x {w}",
                    "x0, y0, x1, y1 inside the picture",
                    "clamp boxes to 0 ... 1 of the picture without padding before they are scaled",
                )
            if (boxes[:, :2] > boxes[:, 2:] + slack).any():
                raise Failure(
                    "boxes whose x1 or y1 is below x0 or y0", "x0 <= x1, y0 <= y1", "turn cxcywh into corners"
                )
    return None


def original_pixels(subject: HeadSubject) -> str | None:
    """Results are in original pixels: an image twice as high and three times as wide has its boxes there."""
    head, batch = subject.build().eval(), subject.batch()
    with torch.no_grad():
        outputs = head(batch.copies(), batch.padding_mask)
        asked = batch.asked()
        scaled = [{**t, "original_size": (2 * t["original_size"][0], 3 * t["original_size"][1])} for t in asked]
        before, after = head.predict(outputs, asked), head.predict(outputs, scaled)
    if not {"boxes", "semantic", "depth", "masks"} & before[0].keys():
        return "nothing that the kit knows to be in pixels"
    for a, b, target in zip(before, after, scaled, strict=True):
        if "boxes" in a and difference(b["boxes"], a["boxes"] * a["boxes"].new_tensor([3, 2, 3, 2])) > 1e-3:
            raise Failure(
                "boxes that do not grow with original_size",
                "boxes in original pixels, height and width each by its own factor",
                "scale x by original_size[1] and y by original_size[0]",
            )
        for key in ("semantic", "depth", "masks"):
            if key in b and tuple(b[key].shape[-2:]) != tuple(target["original_size"]):
                raise Failure(
                    f"{key} of shape {tuple(b[key].shape)}",
                    f"a map of {target['original_size']}, the original_size",
                    "crop maps to `size` and bring them to `original_size`",
                )
    return None


def targets_unread(subject: HeadSubject) -> None:
    """predict reads `size` and `original_size` only: labels change nothing."""
    head, batch = subject.build().eval(), subject.batch()
    with torch.no_grad():
        outputs = head(batch.copies(), batch.padding_mask)
        without, with_labels = head.predict(outputs, batch.asked()), head.predict(outputs, batch.targets)
    name, far = worst(flattened(with_labels), flattened(without))
    if far > 0:
        raise Failure(
            f"{name} that differs where targets hold labels", "the same", "read size and original_size only in predict"
        )


def padding(subject: HeadSubject) -> str | None:
    """Features of padding do not change an image's predictions."""
    head, reach = subject.build(), subject.reach
    coarsest = max(subject.levels.strides)
    picture = 2 * coarsest
    side = picture + reach + 4 * coarsest
    size = (side, side)
    batch = subject.batch(size=size, pictures=((picture, picture + coarsest), size))
    changed = []
    for x, stride in zip(batch.features, subject.levels.strides, strict=True):
        x, first = x.clone(), -(-(picture + coarsest + reach) // stride)
        x[0, :, first:] = 5 * torch.randn_like(x[0, :, first:]) + 3
        x[0, :, :, first:] = 5 * torch.randn_like(x[0, :, :, first:]) + 3
        changed.append(x)
    before = subject.predictions(head, batch)[:1]
    after = subject.predictions(head, HeadBatch(changed, batch.padding_mask, batch.targets))[:1]
    name, far = worst(flattened(after), flattened(before))
    if far > ROUNDING:
        raise Failure(
            f"{name} that changes by {far:.2g} of the largest value with the features of padding {reach} pixels and "
            "more off the picture",
            "the same: padding holds nothing",
            "hide padding: masked attention (densevit.layers.positions.mask_on_grid), masked means, features set to 0 "
            "there before convolutions",
        )
    return f"padding nearer than {reach} pixels is left to convolutions" if reach else None


def batch_independence(subject: HeadSubject) -> None:
    """In evaluation mode an image's predictions do not depend on the others of its batch."""
    head: Head = subject.shared()
    batch = subject.batch()
    features = [torch.cat([x[:1], 10 * x[1:]]) for x in batch.features]
    together = subject.predictions(head, HeadBatch(features, batch.padding_mask, batch.targets))[:1]
    alone = HeadBatch([x[:1] for x in features], batch.padding_mask[:1], batch.targets[:1])
    name, far = worst(flattened(together), flattened(subject.predictions(head, alone)))
    if far > 10 * ROUNDING:
        raise Failure(
            f"{name} that differs by {far:.2g} of the largest value, alone and in a batch of {len(batch.targets)}",
            "the same",
            "normalise over no batch in eval(), and keep dimension 0 apart in reshapes",
        )
