"""Checks of a backbone's attributes and of the shapes of its feature maps."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from densevit.interfaces import Backbone
from densevit.registry.plugin_options import takes
from densevit_workbench.testing.behaviour import RUNS
from densevit_workbench.testing.check_results import Failure, NotChecked, check, described, require
from densevit_workbench.testing.fixtures import BackboneFixture, Size, grid, require_class, require_new

MIN_SHIFT = 0.03  # relative to the map: smaller shifts of the response have no reliable direction
TRIED = ((64, 96), (64, 64), (128, 128), (224, 224), (256, 256), (384, 384))


@check("a new Backbone", "make it constructible: pass options, or give them defaults", required=True)
def construction(fixture: BackboneFixture) -> None:
    """The factory returns a new Backbone at each call."""
    first, second = fixture.build(), fixture.build()
    require_class(first, Backbone)
    require_new(first, second)


@check("channels, strides, mean, std", "set them in the constructor", required=True)
def attributes(fixture: BackboneFixture) -> None:
    """channels, strides, mean, std and input_size have the documented types."""
    backbone = fixture.shared()
    for name in ("channels", "strides"):
        value = getattr(backbone, name, None)
        require(
            value and isinstance(value, tuple) and all(type(x) is int and x > 0 for x in value),
            f"{name} = {value!r}",
            "a tuple of positive ints, one per feature",
            f"set self.{name} = (...) in the constructor, after super().__init__()",
        )
    require(
        len(backbone.channels) == len(backbone.strides),
        f"{len(backbone.channels)} channels and {len(backbone.strides)} strides",
        "one of each per feature",
        "give channels and strides the same length",
    )
    for name in ("mean", "std"):
        value = getattr(backbone, name)
        require(
            isinstance(value, Sequence) and len(value) == 3 and all(isinstance(x, float | int) for x in value),
            f"{name} = {value!r}",
            "three numbers, for pixels in [0, 1]",
            f"write {name} = (r, g, b)",
        )
    std, size = backbone.std, backbone.input_size
    require(min(std) > 0, f"std = {std}", "positive numbers, for pixels in [0, 1]", "use values above 0")
    require(
        size is None or (isinstance(size, tuple) and len(size) == 2 and all(type(x) is int for x in size)),
        f"input_size = {size!r}",
        "(H, W) as a tuple of ints, or None",
        "write input_size = (H, W)",
    )


@check("strides from fine to coarse", "sort the features")
def order(fixture: BackboneFixture) -> None:
    """Features are in order of increasing stride."""
    strides = fixture.shared().strides
    require(
        list(strides) == sorted(strides),
        f"strides {strides}",
        "fine to coarse",
        "reverse features, channels and strides together",
    )


@check("a list of feature maps", RUNS, required=True)
def forward(fixture: BackboneFixture) -> str:
    """forward returns a list of (B, C, H, W) maps. The other checks use the first image size that works."""
    backbone, errors = fixture.shared(), []
    for size in (tuple(backbone.input_size),) if backbone.input_size else TRIED:
        try:
            with torch.no_grad():
                features = backbone(fixture.images(size=size))
        except Exception as error:
            errors.append(error)
            continue
        fixture.size = size
        _require_maps(features, len(backbone.channels))
        return f"the other checks run at {size[0]} x {size[1]}" if errors else ""
    raise Failure(
        described(errors[0]),
        "features of an image of 64 x 96 pixels, or of the input_size",
        "run `backbone.eval()(torch.randn(2, 3, 64, 96))`; set input_size if only one size is possible",
    )


def _require_maps(features: object, count: int) -> None:
    if not isinstance(features, list | tuple) or not all(isinstance(x, Tensor) for x in features):
        type_name = type(features).__name__
        raise Failure(
            f"a {type_name}", "a list of tensors, one per feature", "return [feature, ...], also for one feature"
        )
    require(
        len(features) == count,
        f"{len(features)} features for {count} channels",
        "one feature for each entry of channels and strides",
        "return the features that channels and strides declare",
    )
    for i, feature in enumerate(features):
        require(
            feature.ndim == 4,
            f"features[{i}] of shape {tuple(feature.shape)}",
            "(B, C, H, W)",
            "reshape tokens to a map: x.transpose(1, 2).unflatten(2, (H, W)), without the class token",
        )
        require(
            feature.is_floating_point(),
            f"features[{i}] of {feature.dtype}",
            "floating point",
            "return the map before any rounding",
        )


@check("maps (B, C, H, W)", RUNS)
def layout(fixture: BackboneFixture) -> None:
    """Maps are (B, C, H, W), channels first."""
    for size, features in _over_sizes(fixture):
        for i, (x, count) in enumerate(zip(features, fixture.shared().channels, strict=True)):
            require(
                not _channels_last(x, count),
                f"features[{i}] of shape {tuple(x.shape)} for images of {size[0]} x {size[1]}",
                f"(B, {count}, H, W)",
                "this looks like NHWC: return x.permute(0, 3, 1, 2)",
            )


@check("the declared channels", RUNS)
def channels(fixture: BackboneFixture) -> None:
    """Each map has the number of channels that `channels` declares."""
    backbone = fixture.shared()
    maps = zip(fixture.features(), backbone.channels, strict=True)
    counts = tuple(x.shape[-1 if _channels_last(x, count) else 1] for x, count in maps)
    require(
        counts == backbone.channels,
        f"maps of {counts} channels",
        f"{backbone.channels}, as declared in channels",
        f"set self.channels = {counts}, or change the maps",
    )


@check("support for any height and width", RUNS)
def sizes(fixture: BackboneFixture) -> None:
    """Images of any height and width work. With `input_size`, any other size raises an error."""
    backbone = fixture.shared()
    if backbone.input_size is not None:
        H, W = backbone.input_size
        try:
            shapes = [tuple(x.shape[2:]) for x in fixture.features(fixture.images(size=(H + 32, W + 13)))]
        except Exception:
            raise NotChecked(f"accepts images of {H} x {W} pixels only") from None
        expected = [grid((H + 32, W + 13), stride) for stride in backbone.strides]
        require(
            shapes == expected,
            f"maps {shapes} for images of {H + 32} x {W + 13}, not input_size",
            f"an error, or {expected}",
            "raise a ValueError that names input_size for an image of another size",
        )
        raise NotChecked("other sizes work too: input_size is not needed")
    for size in fixture.sizes():
        try:
            fixture.features(fixture.images(size=size))
        except Exception as error:
            raise Failure(
                f"{described(error)} for images of {size[0]} x {size[1]}",
                "features for any height and width",
                "pad inside to a multiple, at the bottom and right with zeros, and crop the maps to ceil(size / "
                "stride); if only one size is possible, set input_size = (H, W)",
            ) from None


@check("maps of ceil(size / stride)", RUNS)
def strides(fixture: BackboneFixture) -> None:
    """Each map is ceil(H / stride) x ceil(W / stride)."""
    backbone = fixture.shared()
    for size, features in _over_sizes(fixture):
        shapes = [
            tuple(x.shape[1:3] if _channels_last(x, count) else x.shape[2:])
            for x, count in zip(features, backbone.channels, strict=True)
        ]
        expected = [grid(size, stride) for stride in backbone.strides]
        rounded_down = all(
            size[side] // stride <= actual[side] <= full[side]
            for stride, actual, full in zip(backbone.strides, shapes, expected, strict=True)
            for side in (0, 1)
        )
        require(
            shapes == expected,
            f"maps of {_listed(shapes)} for images of {size[0]} x {size[1]}",
            f"{_listed(expected)}: ceil(size / stride) for strides {backbone.strides}",
            "the maps are rounded down: pad inside to a multiple of the stride, at the bottom and right"
            if rounded_down
            else "set self.strides to the strides of the maps, or change the maps",
        )


@check("cells at the position of their pixels", RUNS)
def places(fixture: BackboneFixture) -> None:
    """Maps are spatially aligned: a change in a corner of the image changes the maps towards that corner."""
    backbone, (H, W) = fixture.shared(), fixture.size
    side = max(min(H, W) // 3, 1)
    images, replacements = fixture.images(8), fixture.images(8, seed=2)
    responses: list[list[Tensor]] = []  # by corner and feature: the centre of the change
    before = [x.clone() for x in fixture.features(images.clone())]
    for rows, columns in itertools.product((slice(side), slice(H - side, H)), (slice(side), slice(W - side, W))):
        changed = images.clone()
        changed[:, :, rows, columns] = replacements[:, :, rows, columns]
        after = fixture.features(changed)
        responses.append([_centre((a - b).abs().sum((0, 1))) for a, b in zip(after, before, strict=True)])
    for i, feature in enumerate(before):
        if min(feature.shape[2:]) < 2 or _channels_last(feature, backbone.channels[i]):
            continue
        centres = torch.stack([corner[i] for corner in responses]).view(2, 2, 2)  # (bottom, right, (row, column))
        down, right = (centres[1] - centres[0]).mean(0), (centres[:, 1] - centres[:, 0]).mean(0)
        for where, shift, axis in (("bottom", down, 0), ("right", right, 1)):
            require(  # small shifts are not checked: a deep network with random weights may blur the position
                shift.abs().max() < MIN_SHIFT or shift[axis] >= shift[1 - axis].abs(),
                f"a change at the {where} of the images, instead of the opposite side, that shifts features[{i}] "
                f"by {float(shift[0]):.0%} of the map down and {float(shift[1]):.0%} to the right",
                f"a shift to the {where}: maps are aligned with the image",
                "keep rows and columns in order when reshaping tokens to a map: rows first, unflatten(2, (H, W))",
            )


@check("images of in_channels channels", "build the first layer for in_channels, as nn.Conv2d(in_channels, width, ...)")
def in_channels(fixture: BackboneFixture) -> None:
    """A constructor with `in_channels` builds backbones for 1 and 5 channels; every channel changes the features."""
    if not takes(fixture.plugin, "in_channels"):
        raise NotChecked("has no option in_channels: it takes images of three channels only")
    expected = [tuple(x.shape) for x in fixture.features()]
    for count in (1, 5):
        backbone, images = fixture.build_with(in_channels=count).eval(), fixture.images(channels=count)
        with torch.no_grad():
            features = [x.clone() for x in backbone(images.clone())]
            shapes = [tuple(x.shape) for x in features]
            require(
                shapes == expected,
                f"maps {shapes} of {count} channels",
                f"{expected}, as for 3 channels",
                "change no width",
            )
            for i in range(count):
                altered = images.clone()
                altered[:, i] = fixture.images(seed=2, channels=count)[:, i]
                changed = backbone(altered)
                require(
                    any(not torch.equal(a, b) for a, b in zip(features, changed, strict=True)),
                    f"features of {count} channels that do not depend on channel {i}",
                    "features that depend on each channel",
                    "let the first layer take all channels",
                )


def _centre(change: Tensor) -> Tensor:
    """(2,): the centre of mass of a change (H, W), relative to the height and width of the map."""
    H, W = change.shape
    rows, columns = (torch.arange(H) + 0.5) / H, (torch.arange(W) + 0.5) / W
    return torch.stack([(change.sum(1) * rows).sum(), (change.sum(0) * columns).sum()]) / change.sum().clamp(min=1e-30)


def _over_sizes(fixture: BackboneFixture) -> Iterator[tuple[Size, list[Tensor]]]:
    """Features at each working size; the check `sizes` requires that all sizes work."""
    for size in dict.fromkeys((*fixture.sizes(), fixture.size)):
        try:
            features = fixture.features(fixture.images(size=size))
        except Exception:
            if size == fixture.size:
                raise
            continue
        yield size, features


def _channels_last(feature: Tensor, count: int) -> bool:
    return feature.shape[1] != count and feature.shape[3] == count


def _listed(grids: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(" x ".join(map(str, size)) for size in grids)
