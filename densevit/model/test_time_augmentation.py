"""Several looks at one picture, windows, flips and scales, and what they say together, in the picture's own pixels.

Maps go from the model to predictions strip by strip. With windows, maps of C channels take about
`4 * C * window_height * W * (the sum of the scales)` bytes twice over, and a batch of windows' own, however high the
picture is.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import padded
from densevit.errors import ConfigError
from densevit.interfaces import Batch, Head, Predictions
from densevit.model.sliding_window import Size, slide
from densevit.model.streaming_resize import averaged, resized

if TYPE_CHECKING:
    from densevit.model.dense import DenseModel


def predictions(model: "DenseModel", batch: Batch, section: InferenceSection) -> dict[str, list[Predictions]]:
    """Every head's predictions, one an image, in original pixels, from several looks at each image."""
    found: dict[str, list[Predictions]] = {name: [] for name in model.heads}
    grid = (batch["images"].shape[2], batch["images"].shape[3])
    for image, target in zip(batch["images"], batch["targets"], strict=True):
        h, w = map(int, target["size"])
        H, W = map(int, target["original_size"])
        run = _Run(model, section.average == "probabilities")
        looks = [_look(run, image[:, :h, :w], scale, grid, section) for scale in section.scales]
        strips = resized(averaged(looks, h, lockstep=section.window is not None), (h, w), (H, W))
        for name, prediction in _read(run, strips, H).items():
            found[name].append(prediction)
    return found


class _Run:
    """The model as something that makes maps: those of all its heads, one after another along the channels.

    channels: of each head, known once it has run. zoom: how many times as large as at scale 1 the images are,
    as the square root of the ratio of areas; each head undoes what it does to its maps.
    """

    def __init__(self, model: "DenseModel", probabilities: bool) -> None:
        self.model, self.probabilities = model, probabilities
        self.heads = cast(Mapping[str, Head], model.heads)
        self.channels: list[int] = []

    def __call__(self, images: Tensor, padding_mask: Tensor, size: Size, zoom: float = 1.0) -> Tensor:
        targets = [{"size": size, "original_size": size}] * len(images)
        outputs = self.model({"images": images, "padding_mask": padding_mask, "targets": targets})
        maps = []
        for name, head in self.heads.items():
            x = head.maps(outputs[name], size).float()  # (n, C, *size)
            if zoom != 1:
                x = head.undo_zoom(x, zoom)
            if self.probabilities and x.shape[1] == len(head.classes) > 1:
                x = x.softmax(1)
            maps.append(x)
        self.channels = [x.shape[1] for x in maps]
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


def _look(run: _Run, picture: Tensor, scale: float, grid: Size, section: InferenceSection) -> Iterator[Tensor]:
    """Strips (C, rows, w) of the maps of a picture (3, h, w) seen at one scale, on the picture's grid.

    grid: what the batch is padded to, which the whole picture keeps at its own scale. Other scales and windows are
    padded to their own next multiple, and to the backbone's only size where it has one.
    """
    size = (picture.shape[1], picture.shape[2])
    seen = _scaled(picture, (max(1, round(scale * size[0])), max(1, round(scale * size[1]))))
    own = (seen.shape[1], seen.shape[2])
    window, stride = section.window_sides or own, section.strides or own
    if section.window is not None or own != size:
        cut = (min(window[0], own[0]), min(window[1], own[1]))
        grid = run.model.backbone.input_size or padded(cut, run.model.multiple)
    zoom = math.sqrt(math.prod(own) / math.prod(size))  # as training measures it, of sides that are rounded
    maps = partial(run, zoom=zoom)
    return resized(slide(seen, window, stride, grid, maps, section.flip, section.batch_size), own, size)


def _scaled(picture: Tensor, size: Size) -> Tensor:
    """(3, h, w) uint8 to this size: averaged where it shrinks, bilinear where it grows; a channel at a time."""
    if tuple(picture.shape[1:]) == size:
        return picture
    scaled = picture.new_empty(3, *size)
    for plane, out in zip(picture, scaled, strict=True):
        x = F.interpolate(plane[None, None].float(), size, mode="bilinear", align_corners=False, antialias=True)
        out.copy_(x[0, 0].round_().clamp_(0, 255))
    return scaled


def _read(run: _Run, strips: Iterator[Tensor], height: int) -> dict[str, Predictions]:
    """Every head's predictions from the strips of all its maps, on the strips' grid of that height."""
    results: dict[str, Predictions] = {name: {} for name in run.heads}
    top = 0
    for strip in strips:
        bottom = top + strip.shape[1]
        for (name, head), maps in zip(run.heads.items(), strip.split(run.channels), strict=True):
            for key, part in head.read_maps(maps[None]).items():  # (1, rows, W)
                if top == 0:
                    results[name][key] = part.new_empty(height, part.shape[2])
                results[name][key][top:bottom] = part[0]
        top = bottom
    return results


def check_inference(model: "DenseModel", section: InferenceSection) -> None:
    """Raises ConfigError where a head makes no maps to average, or the backbone's only size is not the window's."""
    if section.once:
        return
    given = _asked(section)
    for name, head in model.heads.items():
        lacking = [f"{m}()" for m in ("maps", "read_maps") if getattr(type(head), m, None) in (None, getattr(Head, m))]
        if lacking:
            plugin = model.config.heads[name].name if model.config is not None else type(head).__name__
            raise ConfigError(
                f"{given} asks for an average of maps, but heads.{name} ({plugin}) makes none: it has no "
                f"{' and no '.join(lacking)}. Expected dense heads alone, as for segmentation and depth. Leave "
                "inference at its defaults for this model: a whole picture, seen once."
            )
    only = model.backbone.input_size
    if only is not None and section.window_sides != only and (section.window is not None or section.scales != (1.0,)):
        raise ConfigError(
            f"{given}: the backbone takes pictures of {only[0]}x{only[1]} only. Set inference.window="
            f"[{only[0]},{only[1]}]."
        )


def _asked(section: InferenceSection) -> str:
    """The keys that ask for more than one look, as one would type them."""
    asked: Sequence[tuple[str, object]] = (("window", section.window), ("flip", section.flip))
    keys = [f"inference.{key}={str(value).lower()}" for key, value in asked if value]
    if section.scales != (1.0,):
        keys.append(f"inference.scales={[*section.scales]}")
    return ", ".join(keys)
