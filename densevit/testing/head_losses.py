"""Checks of what a head takes and of its losses."""

import torch
from torch import Tensor

from densevit.interfaces import Head, Losses
from densevit.testing.head_subject import SIZE, HeadBatch, HeadSubject, Levels
from densevit.testing.results import Failure
from densevit.testing.targets import KNOWN

EQUAL = 1e-4  # of the value: what another order of summation may change


def construction(subject: HeadSubject) -> str | None:
    """The factory gives a new Head each time, with task, needs and classes."""
    first = subject.build()  # tells the task, by which classes are given
    if not isinstance(first, Head):
        found = f"an object of class {type(first).__name__}"
        raise Failure(found, "a densevit.Head", f"write `class {type(first).__name__}(densevit.Head)`")
    if not isinstance(getattr(first, "task", None), str) or not first.task:
        found = f"task = {getattr(first, 'task', None)!r}"
        raise Failure(found, "a word, such as 'detection'", "write `task = 'detection'` in the class")
    needs = getattr(first, "needs", None)
    if not isinstance(needs, tuple) or not all(isinstance(key, str) for key in needs):
        raise Failure(
            f"needs = {needs!r}", "a tuple of target keys", "write `needs = ('boxes', 'labels')` in the class"
        )
    head = subject.build()
    if head is first:
        raise Failure("one object twice", "a new one at each call", "let the factory call the constructor")
    if tuple(getattr(head, "classes", ())) != subject.classes(4):
        raise Failure(
            f"classes = {getattr(head, 'classes', None)!r}",
            "the classes that the constructor was given",
            "call super().__init__(channels, strides, classes)",
        )
    if subject.unknown:
        return f"losses are not checked: the kit makes up {', '.join(KNOWN)}, not {', '.join(subject.unknown)}"
    return None


def several_levels(subject: HeadSubject) -> None:
    """It runs on features of several strides."""
    _passes(subject, subject.levels)


def one_level(subject: HeadSubject) -> None:
    """It runs on one feature, as a plain ViT gives."""
    _passes(subject, Levels(subject.levels.channels[-1:], subject.levels.strides[-1:]))


def equal_strides(subject: HeadSubject) -> None:
    """It runs on two features of one stride, in order of depth."""
    _passes(
        subject, Levels(subject.levels.channels[-2:], subject.levels.strides[-1:] * len(subject.levels.strides[-2:]))
    )


def one_class(subject: HeadSubject) -> str | None:
    """It runs with a single class."""
    if subject.task == "depth":
        return "depth has no classes"
    _passes(subject, subject.levels, classes=1)
    return None


def odd_sizes(subject: HeadSubject) -> None:
    """It runs on batches of odd sizes."""
    for size in ((33, 47), (61, 97)):
        h, w = size
        _passes(subject, subject.levels, size=size, pictures=((h, w), (h - 10, w - 17)))


def _passes(
    subject: HeadSubject,
    levels: Levels,
    classes: int = 4,
    size: tuple[int, int] = SIZE,
    pictures: tuple[tuple[int, int], ...] | None = None,
) -> None:
    """Training and prediction on such features go through, with a finite loss."""
    head = subject.build(levels=levels, classes=classes)
    batch = subject.batch(levels, size, pictures or ((size[0], size[1]), (64, 96), (80, 50)), classes)
    if not subject.unknown:
        losses = subject.train_losses(head, batch)
        _check_finite(losses, f"on features of strides {levels.strides} for pictures of {size[0]} x {size[1]}")
        _total(losses).backward()
    found = subject.predictions(head, batch)
    if len(found) != len(batch.targets):
        raise Failure(
            f"{len(found)} predictions for {len(batch.targets)} images", "one an image", "return a dict for each target"
        )


def loss_keys(subject: HeadSubject) -> str | None:
    """Losses are scalars, with the same keys whatever is labelled, in training and evaluation."""
    if subject.unknown:
        return _not_checked(subject)
    head = subject.build()
    expected: list[str] | None = None
    for what, batch in _labellings(subject).items():
        for mode in (True, False):
            head.train(mode)
            outputs = head(batch.copies(), batch.padding_mask, batch.targets if mode else None)
            losses = head.loss(outputs, batch.targets)
            if not isinstance(losses, dict) or not losses:
                raise Failure(f"losses of type {type(losses).__name__}", "a dict of scalars by name", "name each term")
            for name, value in losses.items():
                if not isinstance(value, Tensor) or value.ndim != 0:
                    found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                    raise Failure(f"losses[{name!r}] {found}", "a scalar tensor", "sum or average the term")
            expected = expected or sorted(losses)
            if sorted(losses) != expected:
                raise Failure(
                    f"losses {', '.join(sorted(losses))} for {what}, {'training' if mode else 'evaluation'}",
                    f"{', '.join(expected)}, always the same keys: several processes sum them up",
                    "give every term at all times: 0, connected to the outputs, where there is nothing to learn",
                )
    return None


def empty_targets(subject: HeadSubject) -> str | None:
    """Images without objects are learnt from: the loss is finite, for all of them and for one of them."""
    if subject.unknown:
        return _not_checked(subject)
    for what, objects in (("no object in any image", (0, 0, 0)), ("no object in one image", (3, 0, 1))):
        head = subject.build()
        losses = subject.train_losses(head, subject.batch(objects=objects))
        _check_finite(losses, f"with {what}")
        _total(losses).backward()
        for name, parameter in head.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                raise Failure(
                    f"a gradient of {name} that is not finite with {what}",
                    "finite gradients",
                    "divide by a count that is at least 1, and take no mean over nothing",
                )
    return None


def unlabelled(subject: HeadSubject) -> str | None:
    """Where no image is labelled, every loss is exactly 0 and still connected to every parameter."""
    if subject.unknown:
        return _not_checked(subject)
    head = subject.build()
    _total(subject.train_losses(head, subject.batch())).backward()
    reached = [name for name, p in head.named_parameters() if p.grad is not None]
    head.zero_grad(set_to_none=True)
    losses = subject.train_losses(head, subject.batch(labelled=(False, False, False)))
    for name, value in losses.items():
        if float(value) != 0:
            raise Failure(
                f"losses[{name!r}] = {float(value):.4g} where no image has {' or '.join(subject.needs)}",
                "exactly 0: an absent key means not labelled, not empty",
                "keep the images with all keys of `needs` in their targets, and only those",
            )
    total = _total(losses)
    if total.requires_grad:
        total.backward()
    parameters = dict(head.named_parameters())
    loose = [name for name in reached if parameters[name].grad is None]
    if loose:
        more = f" and {len(loose) - 4} more" if len(loose) > 4 else ""
        raise Failure(
            f"a loss without labels that is not connected to {', '.join(loose[:4])}{more}",
            "a path to every parameter: several processes wait for the gradients of all",
            "return `outputs.sum() * 0` for the term, not a new tensor",
        )
    return None


def partly_labelled(subject: HeadSubject) -> str | None:
    """Images that are not labelled change nothing in the losses."""
    if subject.unknown:
        return _not_checked(subject)
    head = subject.build().eval()
    batch, other = (subject.batch(pictures=(SIZE, SIZE), labelled=(True, False)) for _ in range(2))
    alone = HeadBatch([x[:1] for x in other.features], other.padding_mask[:1], other.targets[:1])
    with torch.no_grad():
        both, one = (head.loss(head(b.copies(), b.padding_mask), b.targets) for b in (batch, alone))
    for name in one.keys() & both.keys():
        a, b = float(both[name]), float(one[name])
        if abs(a - b) > EQUAL * max(abs(b), 1e-3):
            raise Failure(
                f"losses[{name!r}] = {a:.6g} for an image beside one that is not labelled",
                f"{b:.6g}, as without that one",
                "leave out images that lack a key of `needs`, in sums and in what they are divided by",
            )
    return None


def autocast_bfloat16(subject: HeadSubject) -> str | None:
    """The loss is finite under bf16 autocast, for features small and large."""
    return _autocast(subject, torch.bfloat16)


def autocast_float16(subject: HeadSubject) -> str | None:
    """The loss is finite under fp16 autocast, for features small and large."""
    return _autocast(subject, torch.float16)


def _autocast(subject: HeadSubject, dtype: torch.dtype) -> str | None:
    if subject.unknown:
        return _not_checked(subject)
    head = subject.build()
    for scale in (0.0, 1.0, 30.0):
        for own in (torch.float32, dtype):  # a backbone under autocast gives either
            batch = subject.batch(scale=scale)
            batch = HeadBatch([x.to(own) for x in batch.features], batch.padding_mask, batch.targets)
            with torch.autocast("cpu", dtype=dtype):
                losses = subject.train_losses(head, batch)
            _check_finite(losses, f"under {dtype} autocast, for features of {own} and deviation {scale:g}")
    return None


def inputs_unchanged(subject: HeadSubject) -> str | None:
    """Features and targets that come in stay as they are."""
    head, batch, untouched = subject.build(), subject.batch(), subject.batch()
    with torch.no_grad():
        outputs = head.train()(list(batch.features), batch.padding_mask, batch.targets)
        if not subject.unknown:
            head.loss(outputs, batch.targets)
        head.predict(head.eval()(list(batch.features), batch.padding_mask), batch.targets)
    for i, (x, before) in enumerate(zip(batch.features, untouched.features, strict=True)):
        if not torch.equal(x, before):
            found = f"features[{i}] changed"
            raise Failure(found, "features as they were: other heads share them", "write x = x + y, not x += y")
    for target, before_target in zip(batch.targets, untouched.targets, strict=True):
        same = target.keys() == before_target.keys() and all(
            torch.equal(v, before_target[k]) if isinstance(v, Tensor) else v == before_target[k]
            for k, v in target.items()
        )
        if not same:
            raise Failure("targets changed", "targets as they were", "copy what is to be scaled: boxes / size, not /=")
    return None


def _labellings(subject: HeadSubject) -> dict[str, HeadBatch]:
    return {
        "labelled images": subject.batch(),
        "empty images": subject.batch(objects=(0, 0, 0)),
        "images that are not labelled": subject.batch(labelled=(False, False, False)),
        "images of which one is labelled": subject.batch(labelled=(True, False, False)),
    }


def _total(losses: Losses) -> Tensor:
    return torch.stack([value.float() for value in losses.values()]).sum()


def _check_finite(losses: Losses, where: str) -> None:
    for name, value in losses.items():
        if not value.isfinite().all():
            raise Failure(
                f"losses[{name!r}] = {float(value)} {where}",
                "a finite loss",
                "compute losses in float32 with autocast off, divide by at least 1, and clamp before log",
            )


def _not_checked(subject: HeadSubject) -> str:
    return f"not checked: the kit makes up no {', '.join(subject.unknown)}"
