"""Every key of a config, with its type, its default and what it means. A key that is not here is an error.

Sections that name a plugin also take that plugin's own options; `options` is those, and the plugin's constructor
decides on them (`check_plugins`).
"""

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from densevit.config.values import (
    Count,
    Duration,
    Factor,
    Float,
    Frozen,
    FrozenDepths,
    Int,
    Momentum,
    OpenSection,
    Patterns,
    Rate,
    Scales,
    Section,
    Side,
    Sides,
    Triple,
    above_zero,
    as_tuple,
)

BUDGETS = ("max_images", "max_steps", "max_epochs")
"""Keys of `trainer`, of which one is given."""


class BackboneSection(OpenSection):
    """The backbone, and its options."""

    name: str
    """A plugin's name (`densevit plugins` lists them) or `module:Class`."""
    weights: str | None = None
    """Weights for the backbone alone: a file or folder of ours or another project's, or `timm:NAME`,
    `torchvision:NAME`, `hf:ORG/NAME`. `null`: random weights."""
    weights_allow: Patterns = ()
    """Names of tensors, as in `[norm.*]`, that these weights may lack, or have besides or in another shape."""
    mean: Triple = None
    """What is taken off pixels in 0 ... 1, red, green and blue. `null`: what `weights` were trained with, or the
    backbone's own."""
    std: Annotated[Triple, AfterValidator(above_zero)] = None
    """What they are divided by then. `null`: as for `mean`."""
    freeze: FrozenDepths = False
    """Keep the backbone as it starts: no gradients, norms in evaluation mode. Or so many of its depths, from the input,
    or the parameters of these names, as in `[patch_*, stages.0.*]`."""


class PluginSection(OpenSection):
    """A plugin, and its options."""

    name: str
    """A plugin's name or `module:Class`."""


class EvaluationSection(OpenSection):
    """The evaluator of a head, and its options."""

    name: str | None = None
    """A plugin's name or `module:Class`. `null`: the evaluator that is called like the head's task."""


class HeadSection(OpenSection):
    """One head, and its options."""

    name: str
    """A plugin's name or `module:Class`."""
    weight: Rate | Literal["learned"] = 1.0
    """What its losses are multiplied by. `learned`: by its uncertainty, which is trained with the model."""
    weights: str | None = None
    """Weights for the head alone, with its neck; of another project's model, the head of the same task. `null`: random
    weights."""
    weights_allow: Patterns = ()
    """Names of tensors that these weights may lack, or have besides or in another shape."""
    freeze: Frozen = False
    """Keep the head as it starts, with its neck. Or the parameters of these names, as in `[decoder.*, neck.*]`."""
    neck: PluginSection | None = None
    """What stands between the backbone and this head: `{name: ..., options}`."""
    evaluation: EvaluationSection = EvaluationSection()
    """How this head is measured: `{name: ..., options}`."""


class DataSection(OpenSection):
    """The data set, how it is fed, and the data set's own options (`root`, for one, where it reads files)."""

    name: str
    """A plugin's name or `module:Class`."""
    split: str = "val"
    """The split that validation and `evaluate` measure on, by its name on disk (`test`)."""
    batch_size: Annotated[Count, Field(le=2**20)] = 8
    """Pictures a step on one device."""
    num_workers: Annotated[Int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    """Processes that load pictures. `auto`: as many as the processor cores allow."""
    image_size: Sides = None
    """One side, or `[height, width]`, in pixels, of what the model sees. `null`: as the recipe has it."""
    recipe: Literal["fixed", "detr", "crop", "resize"] = "fixed"
    """Augmentation in training: `fixed` brings pictures to `image_size`; `detr` is that paper's, of
    many sizes; `crop` is segmentation's, and of NYU and KITTI, crops of `image_size` at random scales; `resize` is
    `fixed` without augmentation."""
    short_side: Side | None = None
    """Of `crop`: the short side that evaluation brings pictures to, and that training scales. `null`: their own."""
    scales: Scales = None
    """Of `crop`: the least and the greatest of training's random scales. `null`: `[0.5, 2.0]`."""
    rotation: Annotated[Float, Field(gt=0, le=180)] | None = None
    """Of `crop`: training turns pictures by up to so many degrees to either side. What comes in at the border is black
    and unlabelled. `null`: not at all."""
    group_by_aspect: bool = False
    """Batch wide pictures with wide and tall with tall ones: less padding."""

    @field_validator("recipe")
    @classmethod
    def _crops_to_a_size(cls, recipe: str, info: ValidationInfo) -> str:
        if recipe == "crop" and info.data.get("image_size", 0) is None:
            raise ValueError("'crop' needs data.image_size: the crop's side, or [height, width].")
        return recipe

    @field_validator("short_side", "scales", "rotation")
    @classmethod
    def _belongs_to_crop(cls, value: Any, info: ValidationInfo) -> Any:
        recipe = info.data.get("recipe", "crop")  # a wrong recipe is told by itself
        if value is not None and recipe != "crop":
            raise ValueError(f"the recipe {recipe!r} has no such key. Leave it out, or set data.recipe: crop.")
        return value

    @field_validator("scales")
    @classmethod
    def _rises(cls, scales: tuple[float, float] | None) -> tuple[float, float] | None:
        if scales is not None and not 0 < scales[0] <= scales[1] < math.inf:
            raise ValueError(f"give the least scale, above 0, and the greatest, not {[*scales]}.")
        return scales


class OptimSection(Section):
    """The optimiser and the course of its learning rate."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """`sgd` takes the first of `betas` as its momentum."""
    lr: Annotated[Float, Field(gt=0, le=1e6)] | None = None
    """Learning rate; 1e-4 where `lr_per_256` is not given either."""
    lr_per_256: Annotated[Float, Field(gt=0, le=1e6)] | None = None
    """In place of `lr`: the learning rate at 256 pictures an optimiser step, scaled to those in use."""
    backbone_lr: Rate | None = None
    """The backbone's learning rate. `null`: the same as the rest's."""
    layer_decay: Annotated[Float, Field(gt=0, le=1)] = 1.0
    """What each depth of the backbone has of the next one's learning rate, the last of which is `backbone_lr`."""
    lr_factors: dict[str, Factor] = Field(default_factory=dict)
    """Factors on the learning rates of parameters by their names, as in `{heads.detection.*: 10}`. What several match
    has all of them."""
    weight_decay: Rate = 1e-4
    """Not applied to norms, biases and position tables."""
    betas: Annotated[tuple[Momentum, Momentum], BeforeValidator(as_tuple)] = (0.9, 0.999)
    """The decay of Adam's two running means."""
    schedule: Literal["constant", "cosine", "poly", "step"] = "cosine"
    """The learning rate after the warm-up: as it is, along half a cosine, as a power of what remains (`poly`, 0.9), or
    divided by 10 once."""
    warmup: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """The share of the training in which the learning rate rises from 0."""
    warmup_steps: Annotated[Int, Field(ge=0)] | None = None
    """In place of `warmup`: the same in optimiser steps, whatever the budget, as papers give it."""
    drop_at: Annotated[Float, Field(gt=0, le=1)] = 0.67
    """The fraction of the training at which `step` divides by 10."""
    min_lr_ratio: Annotated[Float, Field(ge=0, le=1)] = 0.0
    """Where `cosine` and `poly` end, as a fraction of the learning rate."""

    @model_validator(mode="before")
    @classmethod
    def _one_learning_rate(cls, values: Any) -> Any:
        if isinstance(values, dict):
            given = [key for key in ("lr", "lr_per_256") if values.get(key) is not None]
            if len(given) == 2:
                raise ValueError("lr and lr_per_256 are both given; keep one.")
            if values.get("warmup") and values.get("warmup_steps"):
                raise ValueError("warmup and warmup_steps are both given; keep one.")
            if not given:
                return {**values, "lr": 1e-4}
        return values


class TrainerSection(Section):
    """How long and on what to train, and what to write down."""

    max_images: Count | None = None
    """The training budget in images seen, over all processes, whatever the size of the data set. One of `max_images`,
    `max_steps` and `max_epochs` is given."""
    max_steps: Count | None = None
    """The budget in optimiser steps."""
    max_epochs: Count | None = None
    """The budget in passes over the data set."""
    precision: Literal["auto", "32", "16-mixed", "bf16-mixed", "bf16-true", "64"] = "auto"
    """`auto`: bf16-mixed where the hardware has it, else 32."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    """`auto`: the best that is there."""
    devices: Annotated[Count, Field(le=2**16)] | str = "auto"
    """How many, or which ones (`"0,2"`)."""
    num_nodes: Annotated[Count, Field(le=2**16)] = 1
    """Machines."""
    strategy: str = "auto"
    """How several devices share the work, as Lightning names it (`ddp`)."""
    clip_grad_norm: Annotated[Float, Field(gt=0)] | None = None
    """Gradients are scaled down to this norm. `null`: never."""
    accumulate: Count = 1
    """Batches an optimiser step."""
    evaluate_every: Annotated[Float, Field(gt=0, allow_inf_nan=False)] = 0.25
    """From one validation to the next: below 1 a share of the training, 0.25 for four validations; from 1 on, epochs.
    One always follows the last step."""
    checkpoint_every: Count | Duration | None = "5min"
    """From one `last.ckpt` to the next, besides those after validations: optimiser steps, or a time as in `30s`, `5min`
    or `1h`. `null`: none besides."""
    compile: bool = False
    """Compile the model with `torch.compile`."""
    monitor: str | None = None
    """The metric that picks the best epoch, `detection/AP`. `null`: the head's main one; of several heads, how near
    each is to the best it has reached."""
    ema: Annotated[Float, Field(gt=0, lt=1)] | None = None
    """The decay of a running mean of the weights, which is then what is evaluated and saved. `null`: none."""
    log_every: Count = 50
    """Optimiser steps from one line of losses in `metrics.csv` to the next."""

    @model_validator(mode="before")
    @classmethod
    def _numeric_precision(cls, values: Any) -> Any:
        if isinstance(values, dict) and type(values.get("precision")) is int:
            return {**values, "precision": str(values["precision"])}
        return values

    @field_validator("evaluate_every")
    @classmethod
    def _share_or_epochs(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise ValueError(f"give a share of the training below 1, or a whole number of epochs, not {value:g}.")
        return value

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainerSection":
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if not given:
            raise ValueError("set max_images, max_steps or max_epochs, else the training has no end.")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given; keep one budget.")
        return self


class InferenceSection(Section):
    """How dense heads look at a picture in validation, `evaluate` and `predict`: by default once, at the whole of it.

    Sides are in pixels of the picture as evaluation resizes it. What several looks give for a pixel is averaged.
    """

    window: Sides = None
    """The side, or `[height, width]`, of windows that slide over the picture. `null`: the whole picture."""
    stride: Sides = None
    """The way, or `[down, across]`, from one window to the next. `null`: two thirds of the window, rounded."""
    average: Literal["logits", "probabilities"] = "logits"
    """What of a class map is averaged. Maps without classes, as of depth, are averaged as they are."""
    flip: bool = False
    """Look at the mirrored picture too."""
    scales: Annotated[tuple[Factor, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (1.0,)
    """Look at the picture resized by each of these factors."""
    batch_size: Count = 4
    """Windows, or flips of a whole picture, that run together."""

    @field_validator("stride")
    @classmethod
    def _leaves_nothing_out(cls, stride: Any, info: ValidationInfo) -> Any:
        if stride is None or "window" not in info.data:  # a wrong window is told by itself
            return stride
        window = info.data["window"]
        if window is None:
            raise ValueError(f"a stride of {_shown(stride)} needs a window. Set inference.window too, or leave it out.")
        if any(step > side for step, side in zip(_pair(stride), _pair(window), strict=True)):
            raise ValueError(
                f"{_shown(stride)} is more than inference.window, {_shown(window)}, and leaves pixels out. "
                "Expected at most the window; null takes two thirds of it."
            )
        return stride

    @property
    def once(self) -> bool:
        """Whether a picture is looked at once and whole, so that there is nothing to average."""
        return self.window is None and not self.flip and self.scales == (1.0,)

    @property
    def window_sides(self) -> tuple[int, int] | None:
        """(height, width)."""
        return None if self.window is None else _pair(self.window)

    @property
    def strides(self) -> tuple[int, int] | None:
        """(down, across), where there is a window."""
        if self.window is None:
            return None
        if self.stride is not None:
            return _pair(self.stride)
        height, width = _pair(self.window)
        return max(1, round(2 * height / 3)), max(1, round(2 * width / 3))


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _shown(sides: int | tuple[int, int]) -> str:
    return str(sides if isinstance(sides, int) else list(sides))


@dataclass
class Sources:
    """Which file, or the command line, each key came from. Two configs are equal whatever their keys came from."""

    places: dict[tuple[str, ...], str] = field(default_factory=dict, compare=False)

    def of(self, key: tuple[str, ...]) -> str:
        """The source of a key, or of the nearest section above it; empty where the config was made in Python."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, "")


class Config(Section):
    """A whole training: what `densevit.config.load` gives."""

    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0
    """Of weights, data order and augmentation."""
    weights: str | None = None
    """A whole model's weights to start from: a run folder, a file or `hf:ORG/NAME`. `null`: none."""
    weights_allow: Patterns = ()
    """Names of tensors, as in `[heads.depth.*]`, that these weights may lack, or have besides or in another shape."""
    backbone: BackboneSection
    """The backbone: one for all heads."""
    heads: Annotated[dict[str, HeadSection], Field(min_length=1)]
    """The heads, by names of one's own choice; metrics carry them (`detection/AP`)."""
    data: DataSection
    """The data set."""
    optim: OptimSection = Field(default_factory=OptimSection)
    """The optimiser."""
    trainer: TrainerSection
    """The training."""
    inference: InferenceSection = Field(default_factory=InferenceSection)
    """How dense heads look at pictures in validation, evaluation and prediction."""
    _sources: Sources = PrivateAttr(default_factory=Sources)

    @field_validator("heads")
    @classmethod
    def _names_that_metrics_can_carry(cls, heads: dict[str, HeadSection]) -> dict[str, HeadSection]:
        for name in heads:
            if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
                raise ValueError(f"{name!r} is no name for a head: use letters, digits, _ and -.")
            if len(name) > 100:  # files carry it
                raise ValueError(f"{name[:20]}... is no name for a head: {len(name)} letters, 100 are allowed.")
        return heads
