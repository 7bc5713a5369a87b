"""The config section of the data."""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator

from densevit.config.values import (
    Count,
    Float,
    Int,
    Named,
    OpenSection,
    PluginName,
    Scales,
    Side,
    Sides,
    as_tuple,
    module_section,
)
from densevit.paths import user_path
from densevit.registry.options import nearest

_RECIPES_OF = {  # the recipes that have a key
    "short_side": ("crop", "lsj"),
    "scales": ("crop", "lsj", "resized_crop"),
    "rotation": ("crop",),
    "object_crops": ("crop",),
    "min_visible": ("crop",),
    "rand_augment": ("resized_crop",),
    "random_erasing": ("resized_crop",),
}
AUGMENTATION = ("recipe", "multi_scale", "vertical_flip", "copy_paste", "mosaic", "mixup", "cutmix", *_RECIPES_OF)
"""The keys of `data` that `data.final_phase` can change."""


class FinalPhase(OpenSection):
    """The last part of the training, with the keys of the section `data` that differ in it."""

    start: Annotated[Float, Field(gt=0, lt=1)]
    """The fraction of the training at which it starts, such as 0.9."""


def folder_name(plugin: str, root: Any) -> str:
    """The name of a data set's folder, in which a YAML file may be named; the plugin's name if `root` names none."""
    path = Path(str(root or ""))
    name = path.parent.name if path.suffix in (".yaml", ".yml") else path.name
    return plugin.rpartition(":")[2] if name in ("", "..") else name


def data_title(plugin: str, root: Any) -> str:
    """The displayed name of a data set: its folder's name, and the plugin's in parentheses if they differ."""
    folder, short = folder_name(plugin, root), plugin.rpartition(":")[2]
    return folder if folder == short else f"{folder} ({short})"


class DataSection(OpenSection):
    """The data set, its loader and augmentation, and the data set's own options, such as `root`."""

    name: PluginName
    """A plugin's name or `module:Class`."""
    split: str = "val"
    """The split for validation and `evaluate`, by its name on disk (`test`)."""
    batch_size: Annotated[Count, Field(le=2**20)] = 8
    """Images per step and device."""
    num_workers: Annotated[Int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    """Worker processes that load images. `auto`: by the number of CPU cores."""
    image_size: Sides = None
    """Side, or `[height, width]`, of the model's input in pixels. `null`: the recipe's default."""
    recipe: Annotated[
        Literal["fixed", "detr", "crop", "lsj", "resized_crop", "resize"] | Named, BeforeValidator(module_section)
    ] = "fixed"
    """Augmentation in training: `fixed` resizes images to `image_size`; `detr` is the multi-scale augmentation of DETR;
    `crop` takes crops of `image_size` at random scales, as for semantic segmentation, NYU and KITTI; `lsj`, large-scale
    jitter, fits images into `image_size` times a random scale and crops or pads them to it, as for instance masks on
    COCO; `resized_crop` takes crops of random area and aspect ratio, resized to `image_size`, as for image
    classification; `resize` is `fixed` without augmentation. Or `module:Class` with options, `{name:
    my_package:MyRecipe, options}`."""
    short_side: Side | None = None
    """For `crop` and `lsj`: the short side of images in evaluation; for `crop`, in training before random scaling too.
    `null`: the image's short side; for `lsj`, images are fitted into `image_size`."""
    scales: Scales = None
    """For `crop` and `lsj`: the smallest and the largest random scale in training. `null`: `[0.5, 2.0]`; for `lsj`,
    `[0.1, 2.0]`. For `resized_crop`: the smallest and the largest area of a crop as a share of the image's; `null`:
    `[0.08, 1.0]`."""
    vertical_flip: bool = False
    """Also flips half of the training images vertically, for images without an upright orientation, such as microscope
    or aerial images."""
    rotation: Annotated[Float, Field(gt=0, le=180)] | None = None
    """For `crop`: the largest random rotation in training, in degrees. New pixels at the border are black and
    unlabelled. `null`: no rotation."""
    object_crops: Annotated[Float, Field(gt=0, le=1)] | None = None
    """For `crop`: the share of training crops placed at random around an object, for large images with few objects.
    `null`: crops are anywhere."""
    min_visible: Annotated[Float, Field(gt=0, le=1)] | None = None
    """For `crop`: in training, leaves out objects of which less than this share of the box's area is inside the crop.
    `null`: keeps all objects that are partly inside."""
    rand_augment: Annotated[Int, Field(ge=0, le=30)] | None = None
    """For `resized_crop`: the magnitude of RandAugment, of 30, such as 9. It moves pixels: images must not have labels
    with a place, such as boxes or maps. `null`: none."""
    random_erasing: Annotated[Float, Field(gt=0, le=1)] | None = None
    """For `resized_crop`: the probability that a random rectangle of a training image is erased. `null`: none."""
    mixup: Annotated[Float, Field(gt=0)] | None = None
    """MixUp: each training image is mixed with another of the batch, and so are their classes; of objects, with their
    boxes and instance masks, it then has those of both. Alpha of the distribution of their shares, such as 0.8, for
    objects 8. `null`: none."""
    cutmix: Annotated[Float, Field(gt=0)] | None = None
    """CutMix: as MixUp, but a rectangle is replaced by that of the other image. Alpha, such as 1.0. With both, each
    batch draws one of them. `null`: none."""
    copy_paste: Annotated[Float, Field(gt=0, le=1)] | None = None
    """Simple Copy-Paste in training: the share of images on which objects of another training image are pasted, by
    their instance masks. `null`: none."""
    mosaic: Annotated[Float, Field(gt=0, le=1)] | None = None
    """Mosaic in training: the share of images that are cut into quadrants, each with a random window of another
    training image. `null`: none."""
    multi_scale: Annotated[tuple[Side, ...], Field(min_length=1), BeforeValidator(as_tuple)] | None = None
    """Multi-scale training: each training batch has one of these sizes, drawn at random, in place of `image_size` or of
    its larger side, as in `[480, 512, 544]`. A size listed several times is drawn more often. `null`: one size."""
    repeat_factor: Annotated[Float, Field(gt=0, le=1)] | None = None
    """Repeat factor sampling in training: images with a class that is in less than this share of the images are shown
    more often, by the square root of threshold / share. 0.001 for LVIS. `null`: each image once per epoch."""
    group_by_aspect: bool = False
    """Groups landscape and portrait images into separate batches, which reduces padding."""
    on_error: Literal["raise", "skip"] = "raise"
    """For images whose file or label file cannot be read: `raise` ends the run; `skip` leaves them out of their
    batches, and reports their number and names."""
    final_phase: FinalPhase | None = None
    """Other augmentation in the last part of the training: the fraction of the training at which it starts, and the
    keys that differ, as in `{start: 0.9, recipe: resize, multi_scale: null}`. `null`: the same throughout."""

    @property
    def in_final_phase(self) -> "DataSection":
        """The section with the keys of `final_phase`; the section itself if there is none."""
        return self if self.final_phase is None else _changed(dict(self), self.final_phase)

    @property
    def folder_name(self) -> str:
        """The name of the data set's folder, such as "street"; the plugin's name if there is no folder."""
        return folder_name(self.name, self.options.get("root"))

    @property
    def title(self) -> str:
        """The displayed name of the data set, such as "street (coco)"."""
        return data_title(self.name, self.options.get("root"))

    @field_validator("recipe")
    @classmethod
    def _crops_to_a_size(cls, recipe: Any, info: ValidationInfo) -> Any:
        if recipe in ("crop", "resized_crop") and info.data.get("image_size", 0) is None:
            raise ValueError(f"{recipe!r} needs data.image_size: the crop's side, or [height, width].")
        return recipe

    @field_validator("vertical_flip")
    @classmethod
    def _is_augmentation(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("recipe") == "resize":
            raise ValueError("the recipe 'resize' has no augmentation. Leave it out, or set data.recipe: fixed.")
        return value

    @field_validator(*_RECIPES_OF)
    @classmethod
    def _belongs_to_recipe(cls, value: Any, info: ValidationInfo) -> Any:
        recipe = info.data.get("recipe", "crop")  # an invalid recipe is reported separately
        having = _RECIPES_OF[str(info.field_name)]
        if value is not None and recipe not in having:
            name = recipe if isinstance(recipe, str) else recipe.name
            listed = " or data.recipe: ".join(having)
            raise ValueError(f"the recipe {name!r} has no such key. Leave it out, or set data.recipe: {listed}.")
        return value

    @field_validator("multi_scale")
    @classmethod
    def _has_a_base(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("image_size", 0) is None:
            raise ValueError("the sizes take the place of data.image_size, which is missing: set it.")
        return value

    @field_validator("final_phase")
    @classmethod
    def _changes_augmentation(cls, phase: FinalPhase | None, info: ValidationInfo) -> FinalPhase | None:
        if phase is None:
            return None
        for key in phase.options:
            if key not in AUGMENTATION:
                known = ", ".join(("start", *AUGMENTATION))
                raise ValueError(
                    f"{key!r} is not a key that can change in training.{nearest(key, AUGMENTATION)} Keys: {known}."
                )
        if len(info.data) + 1 == len(cls.model_fields):  # otherwise other keys are invalid, which is reported
            _changed(info.data, phase)
        return phase

    @field_validator("scales")
    @classmethod
    def _rises(cls, scales: tuple[float, float] | None) -> tuple[float, float] | None:
        if scales is not None and not 0 < scales[0] <= scales[1] < math.inf:
            raise ValueError(f"give the smallest scale, above 0, and the largest, not {[*scales]}.")
        return scales


def _changed(values: Mapping[str, Any], phase: FinalPhase) -> DataSection:
    """The section of these values with the keys of the phase. Its own recipe starts with the defaults of the keys that
    belong to recipes. Raises ValueError for an invalid value."""
    left_out = {"final_phase", *(_RECIPES_OF if "recipe" in phase.options else ())}
    kept = {key: value for key, value in values.items() if key not in left_out}
    try:
        return DataSection.model_validate(kept | phase.options)
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"{problem['loc'][0]}: {message}") from None


def evaluated_data(section: Mapping[str, Any]) -> dict[str, str]:
    """The keys of a section `data` that determine on which images models are evaluated, with their values as text.

    These are the data set, its split and its options, except options of the training split and `masks`, which selects
    labels. Rendered data, which has no files, also depends on `image_size`.
    """
    options = {key: value for key, value in section.items() if key not in (*DataSection.model_fields, "masks")}
    options = {key: value for key, value in options.items() if not key.startswith("train_") and value is not None}
    if options.get("root"):
        options["root"] = os.path.realpath(user_path(str(options["root"])))
    elif "sets" not in options:
        size = section.get("image_size")
        options["image_size"] = [size, size] if isinstance(size, int) else [*(size or ())]
    keys = {"name": section["name"], "split": section.get("split", "val"), **options}
    return {key: str(value) for key, value in keys.items()}


def different_keys(sections: Iterable[Mapping[str, str]]) -> list[str]:
    """The keys whose values differ between sections, such as "data.root"."""
    listed = list(sections)
    keys = dict.fromkeys(key for section in listed for key in section)
    return [f"data.{key}" for key in keys if len({section.get(key) for section in listed}) > 1]
