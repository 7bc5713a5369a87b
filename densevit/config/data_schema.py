"""The config section `data`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from densevit.channels import COLORS, RGB, Channels
from densevit.config.values import (
    Count,
    Float,
    Int,
    Names,
    OpenSection,
    Pair,
    Patterns,
    PluginName,
    PluginSection,
    Side,
    Sides,
    as_section,
    as_tuple,
    rule,
)
from densevit.errors import nearest

CHANNELS = ("channels", "range", "nodata", "display")
"""The keys of `data` that describe the channels of images."""

NEW_CLASSES = ("new",)
"""`data.labelled_classes` of a run that adds classes to the model in `weights`."""

AUGMENTATION = ("transforms", "multi_scale", "vertical_flip", "copy_paste", "mosaic", "mixup", "cutmix")
"""The keys of `data` that `data.final_phase` can change."""


class FinalPhase(OpenSection):
    """The last part of training: its start, and the keys of the section `data` that change."""

    start: Annotated[Float, Field(gt=0, lt=1)]
    """The fraction of training at which the phase starts, such as 0.9."""

    _changes_augmentation = rule(
        model_validator(mode="after"),
        lambda phase, _: next(
            (
                f"{key!r} is not a key that can change in training.{nearest(key, AUGMENTATION)} Keys: start, "
                f"{', '.join(AUGMENTATION)}."
                for key in phase.options
                if key not in AUGMENTATION
            ),
            None,
        ),
    )


def folder_name(plugin: str, root: Any) -> str:
    """The name of the folder `root`, or of the folder of a YAML file `root`; without a name, the plugin's name."""
    path = Path(str(root or ""))
    name = path.parent.name if path.suffix in (".yaml", ".yml") else path.name
    return plugin.rpartition(":")[2] if name in ("", "..") else name


class DataSection(OpenSection):
    """The data set, its loader and augmentation, and the data set's options, such as `root`."""

    name: PluginName
    """A plugin's name or `module:Class`."""
    val_split: str = "val"
    """The split for validation and `evaluate`, by its name on disk (`test`)."""
    train: Annotated[PluginSection, "datasets"] | None = None
    """The training data set, in place of the split `train` of `name`, with all arguments of its constructor. With `val`
    too, `name` may be left out: `{train: {name: my_data:MyData, root: a}, val: {name: my_data:MyData, root: b}}`."""
    val: Annotated[PluginSection, "datasets"] | None = None
    """The validation data set, in place of the split `val_split` of `name`."""
    labelled_classes: Patterns = ()
    """The classes whose objects are all labelled; others are neither positive nor negative in a loss. `[]`: all.
    `new`: those that the model in `weights` lacks, whose classes the run keeps."""
    allow_overlap: bool = False
    """Allows training and validation on the same image files, which is an error otherwise."""
    batch_size: Annotated[Count, Field(le=2**20)] = 8
    """Images per step and device."""
    num_workers: Annotated[Int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    """Worker processes that load images. `auto`: by the number of CPU cores."""
    image_size: Sides = None
    """Side, or `[height, width]`, of the model's input in pixels. `null`: the default of the transforms; where that is
    the image's own size and all images have the same one, their long side, to which `predict` resizes others."""
    channels: Names | dict[str, str] | None = None
    """The names of the images' channels, in the order of the file, as in `[red, green, blue, nir]`. For images with a
    file per channel, the ending of each file name, `{red: _red, nir: _nir}`; labels and lists name the first channel's
    file. `null`: 8-bit RGB; images are converted to it."""
    range: Literal["percentile"] | Pair | Annotated[tuple[Pair, ...], BeforeValidator(as_tuple)] = "percentile"
    """The values that the model sees as 0 and 1, `[low, high]`, or a pair per channel; values outside are clipped.
    `percentile`: measured in the training images, as are mean and standard deviation."""
    nodata: Float | None = None
    """The value of pixels without data, such as -9999: excluded from statistics, and replaced by the mean."""
    display: Names = ()
    """The channels to draw: three as red, green and blue, or one as grey. Default: red, green and blue, or
    the first."""
    transforms: Annotated[PluginSection, "transforms", BeforeValidator(as_section)] = PluginSection(name="default")
    """Resizing and augmentation: `{name: ..., options}`, or a name alone. `default` resizes images to `image_size`;
    `resize` is `default` without augmentation; `detr` is the multi-scale augmentation of DETR; `crop` takes crops of
    `image_size` at random scales, as for semantic segmentation, NYU and KITTI; `lsj`, large-scale jitter, fits images
    into `image_size` times a random scale and crops or pads them to it, as for instance masks on COCO; `resized_crop`
    takes crops of random area and aspect ratio, resized to `image_size`, as for image classification."""
    vertical_flip: bool = False
    """Also flips half of the training images vertically, for images without an upright orientation, such as microscope
    or aerial images."""
    mixup: Annotated[Float, Field(gt=0)] | None = None
    """MixUp: mixes pairs of training images and their classes; boxes and instance masks of both images are kept. Value:
    alpha of Beta(alpha, alpha), such as 0.8 (classification), 8 (detection). `null`: none."""
    cutmix: Annotated[Float, Field(gt=0)] | None = None
    """CutMix: as MixUp, but replaces a rectangle by the other image's. Value: alpha, such as 1.0. With `mixup` too,
    each batch draws one of the two. `null`: none."""
    copy_paste: Annotated[Float, Field(gt=0, le=1)] | None = None
    """Simple Copy-Paste in training: pastes objects of another training image, by their instance masks, on this share
    of images. `null`: none."""
    mosaic: Annotated[Float, Field(gt=0, le=1)] | None = None
    """Mosaic in training: this share of images is composed of four quadrants, each a random window of a training image.
    `null`: none."""
    multi_scale: Annotated[tuple[Side, ...], Field(min_length=1), BeforeValidator(as_tuple)] | None = None
    """Multi-scale training: each training batch draws one of these sizes in place of `image_size` or of its larger
    side, as in `[480, 512, 544]`. Repeat a size to draw it more often. `null`: one size."""
    repeat_factor: Annotated[Float, Field(gt=0, le=1)] | None = None
    """Repeat factor sampling in training: repeats images with a class that is in fewer than this share of the images,
    by the square root of threshold / share. 0.001 for LVIS. `null`: each image once per epoch."""
    group_by_aspect: bool = False
    """Groups landscape and portrait images into separate batches, which reduces padding."""
    on_error: Literal["raise", "skip"] = "raise"
    """For images with an unreadable image or label file: `raise` ends the run; `skip` leaves them out of their batches,
    and reports their number and names."""
    final_phase: FinalPhase | None = None
    """Other augmentation in the last part of training: the fraction of training at which it starts, and the keys that
    change, as in `{start: 0.9, transforms: resize, multi_scale: null}`. `null`: no change."""

    _has_a_base = rule(
        field_validator("multi_scale"),
        lambda sizes, above: (
            sizes is not None
            and above.get("image_size", 0) is None
            and "the sizes replace data.image_size, which is missing: set it."
        ),
    )

    @property
    def in_final_phase(self) -> "DataSection":
        """The section with the keys of `final_phase` applied."""
        return self if self.final_phase is None else _changed(dict(self), self.final_phase)

    @property
    def given_channels(self) -> Channels:
        """The channels of images as far as the config describes them, without type and `percentile` range."""
        if all(getattr(self, key) == type(self).model_fields[key].default for key in CHANNELS):
            return RGB
        names = COLORS if self.channels is None else tuple(self.channels)
        files = tuple(self.channels.values()) if isinstance(self.channels, dict) else ()
        pair_or_pairs: Any = () if self.range == "percentile" else self.range
        pairs = (
            (pair_or_pairs,) * len(names) if pair_or_pairs and isinstance(pair_or_pairs[0], float) else pair_or_pairs
        )
        return Channels(names, "", pairs, self.nodata, files, self.display)

    @property
    def folder_name(self) -> str:
        """The name of the data set's folder, such as "street"; the plugin's name without a folder."""
        return folder_name(self.name, self.options.get("root"))

    @model_validator(mode="before")
    @classmethod
    def _named_by_split(cls, values: Any) -> Any:
        parts = (values.get("train"), values.get("val")) if isinstance(values, Mapping) else ()
        names = [{"name": str(part.get("name"))} for part in map(as_section, parts) if isinstance(part, Mapping)]
        return {**names[0], **values} if names else values

    @field_validator("final_phase")
    @classmethod
    def _changes_augmentation(cls, phase: FinalPhase | None, info: ValidationInfo) -> FinalPhase | None:
        if phase is not None and len(info.data) + 1 == len(cls.model_fields):  # else invalid keys are reported
            _changed(info.data, phase)
        return phase


def _changed(values: Mapping[str, Any], phase: FinalPhase) -> DataSection:
    """The section with the keys of the final phase. Its `transforms` replace the section's if they have a `name`, and
    else change options of the section's. Raises ValueError for an invalid value."""
    changed = {"final_phase": None, **phase.options}
    transforms = as_section(changed.get("transforms"))
    if isinstance(transforms, Mapping) and "name" not in transforms:
        changed["transforms"] = {**values["transforms"].model_dump(), **transforms}
    try:
        return DataSection.model_validate({**values, **changed})
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}") from None
