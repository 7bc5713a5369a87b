"""Checks of what a backbone states about its features, and of the maps that it gives."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from densevit.interfaces import Backbone
from densevit.testing.results import Failure, described
from densevit.testing.subjects import BackboneSubject, shape

DIFFUSE = 0.03  # of a map: less does not tell a direction
TRIED = ((64, 96), (64, 64), (128, 128), (224, 224), (256, 256), (384, 384))


def construction(subject: BackboneSubject) -> None:
    """The factory gives a new Backbone each time."""
    first, second = subject.build(), subject.build()
    if not isinstance(first, Backbone):
        raise Failure(
            f"an object of class {type(first).__name__}",
            "a densevit.Backbone",
            f"write `class {type(first).__name__}(densevit.Backbone)`",
        )
    if first is second:
        raise Failure("one object twice", "a new one at each call", "let the factory call the constructor")


def attributes(subject: BackboneSubject) -> None:
    """channels, strides, mean, std and input_size are of the right kind."""
    backbone = subject.shared()
    counts = {}
    for name in ("channels", "strides"):
        value = getattr(backbone, name, None)
        whole = isinstance(value, tuple) and all(type(x) is int and x > 0 for x in value)
        if not whole or not value:
            raise Failure(
                f"{name} = {value!r}",
                "a tuple of positive ints, one a feature",
                f"set self.{name} = (...) in the constructor, after super().__init__()",
            )
        counts[name] = len(value)
    if counts["channels"] != counts["strides"]:
        raise Failure(
            f"{counts['channels']} channels and {counts['strides']} strides",
            "one of each a feature",
            "give channels and strides the same length",
        )
    for name in ("mean", "std"):
        value = getattr(backbone, name)
        if not (isinstance(value, Sequence) and len(value) == 3 and all(isinstance(x, float | int) for x in value)):
            raise Failure(f"{name} = {value!r}", "three numbers, for pixels in 0 ... 1", f"write {name} = (r, g, b)")
    if min(backbone.std) <= 0:
        raise Failure(f"std = {backbone.std}", "positive numbers, for pixels in 0 ... 1", "divide by what is above 0")
    size = backbone.input_size
    if size is not None and not (isinstance(size, tuple) and len(size) == 2 and all(type(x) is int for x in size)):
        raise Failure(f"input_size = {size!r}", "(H, W) as a tuple of ints, or None", "write input_size = (H, W)")


def order(subject: BackboneSubject) -> None:
    """Features go from fine to coarse."""
    strides = subject.shared().strides
    if list(strides) != sorted(strides):
        raise Failure(
            f"strides {strides}", "fine to coarse", "turn the list of features, channels and strides round together"
        )


def forward(subject: BackboneSubject) -> str | None:
    """forward gives a list of maps. Finds the size at which the other checks run."""
    backbone, problem = subject.shared(), None
    for size in TRIED if backbone.input_size is None else (tuple(backbone.input_size),):
        try:
            with torch.no_grad():
                features = backbone(subject.images(size=size))
        except Exception as error:
            problem = problem or error
            continue
        subject.size = size
        _check_features(features, len(backbone.channels))
        return None if size == TRIED[0] or backbone.input_size else f"the other checks run at {size[0]} x {size[1]}"
    assert problem is not None
    raise Failure(
        described(problem),
        "features of a picture of 64 x 96 pixels, or of the input_size",
        "run `backbone.eval()(torch.randn(2, 3, 64, 96))`; set input_size where only one size is possible",
    )


def _check_features(features: object, count: int) -> None:
    if not isinstance(features, list | tuple) or not all(isinstance(x, Tensor) for x in features):
        found = f"a {type(features).__name__}"
        raise Failure(found, "a list of tensors, one a feature", "return [feature, ...], in a list where there is one")
    if len(features) != count:
        raise Failure(
            f"{len(features)} features for {count} channels",
            "one feature for each of channels and strides",
            "return the features that channels and strides announce",
        )
    for i, feature in enumerate(features):
        if feature.ndim != 4:
            raise Failure(
                f"features[{i}] of shape {shape(feature)}",
                "(B, C, H, W)",
                "turn tokens into a map: x.transpose(1, 2).unflatten(2, (H, W)), without the class token",
            )
        if not feature.is_floating_point():
            raise Failure(f"features[{i}] of {feature.dtype}", "floating point", "return the map before it is rounded")


def layout(subject: BackboneSubject) -> None:
    """Maps are (B, C, H, W), channels first."""
    backbone = subject.shared()
    for size, features in _over_sizes(subject):
        for i, feature in enumerate(features):
            if _channels_last(feature, backbone.channels[i]):
                raise Failure(
                    f"features[{i}] of shape {shape(feature)} for pictures of {size[0]} x {size[1]}",
                    f"(B, {backbone.channels[i]}, H, W)",
                    "this looks like NHWC: return x.permute(0, 3, 1, 2)",
                )


def channels(subject: BackboneSubject) -> None:
    """Each map has the channels that are stated."""
    backbone = subject.shared()
    with torch.no_grad():
        features = backbone(subject.images())
    found = tuple(x.shape[-1 if _channels_last(x, c) else 1] for x, c in zip(features, backbone.channels, strict=True))
    if found != backbone.channels:
        raise Failure(
            f"maps of {found} channels",
            f"{backbone.channels}, as channels says",
            f"set self.channels = {found}, or change the maps",
        )


def sizes(subject: BackboneSubject) -> str | None:
    """Any height and width runs; where input_size is set, another one is refused."""
    backbone = subject.shared()
    if backbone.input_size is not None:
        H, W = backbone.input_size
        try:
            with torch.no_grad():
                features = backbone(subject.images(size=(H + 32, W + 13)))
        except Exception:
            return f"{H} x {W} only"
        expected = _grids(backbone, (H + 32, W + 13))
        if [tuple(x.shape[2:]) for x in features] != expected:
            raise Failure(
                f"maps {[tuple(x.shape[2:]) for x in features]} for pictures of {H + 32} x {W + 13}, not input_size",
                f"an error, or {expected}",
                "raise a ValueError that names input_size where a picture has another size",
            )
        return "it takes other sizes too: input_size is not needed"
    for size in subject.sizes():
        try:
            with torch.no_grad():
                backbone(subject.images(size=size))
        except Exception as error:
            raise Failure(
                f"{described(error)} for pictures of {size[0]} x {size[1]}",
                "features for any height and width",
                "pad inside to what is needed, at the bottom and right with zeros, and crop the maps to ceil(size / "
                "stride); where only one size is possible, set input_size = (H, W)",
            ) from None
    return None


def strides(subject: BackboneSubject) -> None:
    """Each map is ceil(H / stride) x ceil(W / stride)."""
    backbone = subject.shared()
    for size, features in _over_sizes(subject):
        found = []
        for feature, count in zip(features, backbone.channels, strict=True):
            spatial = feature.shape[1:3] if _channels_last(feature, count) else feature.shape[2:]
            found.append(tuple(spatial))
        expected = _grids(backbone, size)
        if found != expected:
            rounded_down = all(
                size[side] // stride <= grid[side] <= whole[side]
                for stride, grid, whole in zip(backbone.strides, found, expected, strict=True)
                for side in (0, 1)
            )
            mend = (
                "the maps are rounded down: pad inside to a multiple of the stride, at the bottom and right"
                if rounded_down
                else "set self.strides to what the maps have, or change the maps"
            )
            raise Failure(
                f"maps of {_listed(found)} for pictures of {size[0]} x {size[1]}",
                f"{_listed(expected)}: ceil(size / stride) for strides {backbone.strides}",
                mend,
            )


def places(subject: BackboneSubject) -> None:
    """A cell of a map is where its pixels are: a change in a corner of the pictures shows towards that corner."""
    backbone, (H, W) = subject.shared(), subject.size
    side = max(min(H, W) // 3, 1)
    images, others = subject.images(8), subject.images(8, seed=2)
    shown: list[list[Tensor]] = []  # the centre of the change in each map, for each of the four corners
    with torch.no_grad():
        before = [x.clone() for x in backbone(images.clone())]
        for bottom, right in itertools.product((False, True), repeat=2):
            rows, columns = slice(H - side, H) if bottom else slice(side), slice(W - side, W) if right else slice(side)
            changed = images.clone()
            changed[:, :, rows, columns] = others[:, :, rows, columns]
            after = backbone(changed)
            shown.append([_centre((a - b).abs().sum((0, 1))) for a, b in zip(after, before, strict=True)])
    for i, feature in enumerate(before):
        if min(feature.shape[2:]) < 2 or _channels_last(feature, backbone.channels[i]):
            continue
        centres = torch.stack([moved[i] for moved in shown]).view(2, 2, 2)  # by bottom, right, and row and column
        down, across = (centres[1] - centres[0]).mean(0), (centres[:, 1] - centres[:, 0]).mean(0)
        for where, move, along in (("bottom", down, 0), ("right", across, 1)):
            if move.abs().max() < DIFFUSE:  # a deep network with random weights may blur a place away
                continue
            if move[along] < move[1 - along].abs():
                raise Failure(
                    f"a change at the {where} of the pictures, in place of the opposite side, that moves features[{i}] "
                    f"by {float(move[0]):.0%} of the map down and {float(move[1]):.0%} to the right",
                    f"a move to the {where}: cells lie as their pixels do",
                    "keep rows and columns apart where tokens become a map: rows first, unflatten(2, (H, W))",
                )


def _centre(change: Tensor) -> Tensor:
    """(2,): the centre of gravity of a change (H, W), as parts of the map's height and width."""
    H, W = change.shape
    rows, columns = (torch.arange(H) + 0.5) / H, (torch.arange(W) + 0.5) / W
    return torch.stack([(change.sum(1) * rows).sum(), (change.sum(0) * columns).sum()]) / change.sum().clamp(min=1e-30)


def _over_sizes(subject: BackboneSubject) -> list[tuple[tuple[int, int], list[Tensor]]]:
    """Features at each size that runs; that all do is the matter of `sizes`."""
    backbone, found = subject.shared(), []
    for size in dict.fromkeys((*subject.sizes(), subject.size)):
        try:
            with torch.no_grad():
                found.append((size, backbone(subject.images(size=size))))
        except Exception:
            if size == subject.size:
                raise
    return found


def _channels_last(feature: Tensor, count: int) -> bool:
    return feature.shape[1] != count and feature.shape[3] == count


def _grids(backbone: Backbone, size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(-(-size[0] // s), -(-size[1] // s)) for s in backbone.strides]


def _listed(grids: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(" x ".join(map(str, grid)) for grid in grids)
