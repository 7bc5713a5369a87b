"""The channels of images: names, pixel type, value range and missing pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from densevit.errors import DataError

PixelType = Literal["uint8", "uint16", "float32"]
Range = tuple[float, float]

COLORS = ("red", "green", "blue")
FULL_RANGES: dict[str, Range] = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}


@dataclass(frozen=True)
class Channels:
    """The channels of images: how to read, normalise, draw and export them. Default: 8-bit RGB.

    names: one name per channel, in the tensor's order; `red`, `green` and `blue` mean RGB.
    dtype: the type of the pixels; "": the type of the first file.
    range: the values (low, high) of each channel that normalisation maps to 0 and 1 and clips to; (): not known yet.
    nodata: the value of pixels without data. Reading makes them NaN, so the type is float32; the model sees the
    channel's
        mean there. NaN in files means the same.
    files: if each channel is in its own file, the part of the file name for each channel, such as ("_red", "_nir").
    display: three channels that are drawn as red, green and blue, or one that is drawn as grey; (): see `displayed`.
    stored: the type of the pixels in files if it may differ from `dtype`: int16 is read as float32, and with `nodata`
        every type is. "": `dtype`, or with `nodata` unknown.
    """

    names: tuple[str, ...] = COLORS
    dtype: PixelType | Literal[""] = "uint8"
    range: tuple[Range, ...] = (FULL_RANGES["uint8"],) * len(COLORS)
    nodata: float | None = None
    files: tuple[str, ...] = ()
    display: tuple[str, ...] = ()
    stored: str = ""

    def __post_init__(self) -> None:
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if not self.names or twice is not None:
            raise DataError(f"channels: {'no name is given' if twice is None else f'{twice!r} is given twice'}.")
        if len(self.range) not in (0, len(self.names)):
            raise DataError(f"channels: {len(self.range)} ranges for {len(self.names)} channels; one each is expected.")
        for name, (low, high) in zip(self.names, self.range, strict=False):
            if not low < high:
                raise DataError(f"channels: the range of {name!r} is {low:g} to {high:g}; the first must be the less.")
        unknown = next((name for name in self.display if name not in self.names), None)
        if unknown is not None or len(self.display) not in (0, 1, 3):
            raise DataError(
                f"channels: {list(self.display)} cannot be drawn; one or three of {', '.join(self.names)} are expected."
            )

    @property
    def is_rgb(self) -> bool:
        """Whether images are 8-bit RGB in the full range, for which colour transforms are defined."""
        fields = (self.names, self.dtype, self.range, self.nodata, self.files)
        return fields == (RGB.names, RGB.dtype, RGB.range, None, ())

    @property
    def displayed(self) -> tuple[int, ...]:
        """The indices of the channels that are drawn: three as red, green and blue, or one as grey. By default the
        channels red, green and blue if all exist, otherwise the first channel."""
        chosen = self.display or (COLORS if set(COLORS) <= set(self.names) else self.names[:1])
        return tuple(self.names.index(name) for name in chosen)

    def per_channel(self, values: Sequence[float]) -> tuple[float, ...]:
        """The values of red, green and blue by the channels' names, and their mean for other channels. Values of all
        channels stay."""
        by_name, mean = dict(zip(COLORS, values, strict=False)), sum(values) / len(values)
        return tuple(values if len(values) == len(self.names) else (by_name.get(name, mean) for name in self.names))

    def __str__(self) -> str:
        """Returns the channels in words: "red, green, blue, nir, uint16 in 0 ... 10000"."""
        ranges = sorted(set(self.range))
        shown = f" in {ranges[0][0]:g} ... {ranges[0][1]:g}" if len(ranges) == 1 else ""
        return f"{', '.join(self.names)}, {self.stored or self.dtype or 'any type'}{shown}"


RGB = Channels()
"""8-bit RGB, the default channels."""
