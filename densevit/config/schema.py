"""The config schema: all keys with their types, defaults and meaning. An unknown key is an error.

A section with a plugin also holds the plugin's options (`options`), which `check_plugins` checks.
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
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from densevit.config.values import (
    Count,
    Duration,
    Factor,
    Float,
    Frozen,
    FrozenDepths,
    Int,
    ModuleClass,
    Momentum,
    Named,
    OpenSection,
    Patterns,
    PluginSection,
    Rate,
    Scales,
    Section,
    Side,
    Sides,
    Triple,
    above_zero,
    as_sections,
    as_tuple,
    module_section,
)

BUDGETS = ("max_images", "max_steps", "max_epochs")
"""Keys of `trainer`; exactly one is set."""


class BackboneSection(OpenSection):
    """The backbone, and its options."""

    name: str
    """A plugin's name (`densevit plugins` lists them) or `module:Class`."""
    weights: str | None = None
    """Pretrained weights of the backbone: a file or folder of densevit's or another project's, or `timm:NAME`,
    `torchvision:NAME`, `hf:ORG/NAME`. `null`: random weights."""
    weights_allow: Patterns = ()
    """Patterns of tensors that may be missing, unexpected or of another shape in these weights, as in `[norm.*]`."""
    mean: Triple = None
    """Mean of normalisation, red, green and blue, for pixels in 0 ... 1. `null`: that of `weights`, or the backbone's
    own."""
    std: Annotated[Triple, AfterValidator(above_zero)] = None
    """Standard deviation of normalisation. `null`: as for `mean`."""
    freeze: FrozenDepths = False
    """Freezes the backbone: no gradients, norms in evaluation mode. Or the number of frozen depths, from the input, or
    patterns of parameters, as in `[patch_*, stages.0.*]`."""


class EvaluationSection(OpenSection):
    """The evaluator of a head, and its options."""

    name: str | None = None
    """A plugin's name or `module:Class`. `null`: the evaluator with the name of the head's task."""


class HeadSection(OpenSection):
    """One head, and its options."""

    name: str
    """A plugin's name or `module:Class`."""
    weight: Rate | Literal["learned"] = 1.0
    """Weight of the head's losses. `learned`: uncertainty weighting, trained with the model."""
    weights: str | None = None
    """Pretrained weights of the head and its neck; of another project's model, the head of the same task. `null`:
    random weights."""
    weights_allow: Patterns = ()
    """Patterns of tensors that may be missing, unexpected or of another shape in these weights."""
    freeze: Frozen = False
    """Freezes the head and its neck. Or patterns of parameters, as in `[decoder.*, neck.*]`."""
    neck: PluginSection | None = None
    """The neck between the backbone and this head: `{name: ..., options}`."""
    evaluation: EvaluationSection | None = EvaluationSection()
    """The evaluator of this head: `{name: ..., options}`. `null`: the mean loss over the validation images."""
    inference: "InferenceSection | None" = None
    """Windows and test-time augmentation of this head, in place of the section `inference`. `null`: that section."""


class DataSection(OpenSection):
    """The data set, its loader and augmentation, and the data set's own options, such as `root`."""

    name: str
    """A plugin's name or `module:Class`."""
    split: str = "val"
    """The split for validation and `evaluate`, by its name on disk (`test`)."""
    batch_size: Annotated[Count, Field(le=2**20)] = 8
    """Images per step and device."""
    num_workers: Annotated[Int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    """Worker processes that load images. `auto`: by the number of CPU cores."""
    image_size: Sides = None
    """Side, or `[height, width]`, of the model's input in pixels. `null`: the recipe's default."""
    recipe: Annotated[Literal["fixed", "detr", "crop", "lsj", "resize"] | Named, BeforeValidator(module_section)] = (
        "fixed"
    )
    """Augmentation in training: `fixed` resizes images to `image_size`; `detr` is the multi-scale augmentation of DETR;
    `crop` takes crops of `image_size` at random scales, as for semantic segmentation, NYU and KITTI; `lsj`, large-scale
    jitter, fits images into `image_size` times a random scale and crops or pads them to it, as for instance masks on
    COCO; `resize` is `fixed` without augmentation. Or `module:Class` with options, `{name: my_package:MyRecipe,
    options}`."""
    short_side: Side | None = None
    """For `crop` and `lsj`: the short side of images in evaluation; for `crop`, in training before random scaling too.
    `null`: the image's own; for `lsj`, images are fitted into `image_size`."""
    scales: Scales = None
    """For `crop` and `lsj`: the smallest and the largest random scale in training. `null`: `[0.5, 2.0]`; for `lsj`,
    `[0.1, 2.0]`."""
    rotation: Annotated[Float, Field(gt=0, le=180)] | None = None
    """For `crop`: the largest random rotation in training, in degrees. New pixels at the border are black and
    unlabelled. `null`: no rotation."""
    object_crops: Annotated[Float, Field(gt=0, le=1)] | None = None
    """For `crop`: the share of training crops placed at random around an object, for large images with few objects.
    `null`: crops are anywhere."""
    min_visible: Annotated[Float, Field(gt=0, le=1)] | None = None
    """For `crop`: objects of which a crop has less than this share of the box's area are left out in training. `null`:
    none with any part inside."""
    copy_paste: Annotated[Float, Field(gt=0, le=1)] | None = None
    """Simple Copy-Paste in training: the share of images on which objects of another training image are pasted, by
    their instance masks. `null`: none."""
    repeat_factor: Annotated[Float, Field(gt=0, le=1)] | None = None
    """Repeat factor sampling in training: images with a class that is in less than this share of the images are shown
    more often, by the square root of threshold / share. 0.001 for LVIS. `null`: each image once an epoch."""
    group_by_aspect: bool = False
    """Groups landscape and portrait images into separate batches: less padding."""
    on_error: Literal["raise", "skip"] = "raise"
    """Images whose file or label file cannot be read: `raise` ends the run; `skip` leaves them out of their batches,
    and counts and names them."""

    @field_validator("recipe")
    @classmethod
    def _crops_to_a_size(cls, recipe: Any, info: ValidationInfo) -> Any:
        if recipe == "crop" and info.data.get("image_size", 0) is None:
            raise ValueError("'crop' needs data.image_size: the crop's side, or [height, width].")
        return recipe

    @field_validator("short_side", "scales", "rotation", "object_crops", "min_visible")
    @classmethod
    def _belongs_to_crop(cls, value: Any, info: ValidationInfo) -> Any:
        recipe = info.data.get("recipe", "crop")  # an invalid recipe is reported on its own
        having = ("crop", "lsj") if info.field_name in ("short_side", "scales") else ("crop",)
        if value is not None and recipe not in having:
            name = recipe if isinstance(recipe, str) else recipe.name
            listed = " or data.recipe: ".join(having)
            raise ValueError(f"the recipe {name!r} has no such key. Leave it out, or set data.recipe: {listed}.")
        return value

    @field_validator("scales")
    @classmethod
    def _rises(cls, scales: tuple[float, float] | None) -> tuple[float, float] | None:
        if scales is not None and not 0 < scales[0] <= scales[1] < math.inf:
            raise ValueError(f"give the smallest scale, above 0, and the largest, not {[*scales]}.")
        return scales


OPTIMISERS = ("adamw", "adam", "sgd", "muon")
"""The built-in optimisers."""


class OptimSection(OpenSection):
    """The optimiser and the learning rate schedule, and the options of an optimiser that is a `module:Class`."""

    name: Literal["adamw", "adam", "sgd", "muon"] | ModuleClass = "adamw"
    """`adamw`, `adam`, `sgd`, which uses the first of `betas` as momentum, `muon`, which is Muon for the weights of
    linear and convolution layers and AdamW for the rest, or a `module:Class`."""
    lr: Annotated[Float, Field(gt=0, le=1e6)] | None = None
    """Learning rate; 1e-4 if `lr_per_256` is not set either."""
    lr_per_256: Annotated[Float, Field(gt=0, le=1e6)] | None = None
    """Instead of `lr`: the learning rate for 256 images per optimiser step, scaled linearly to the actual number."""
    backbone_lr: Rate | None = None
    """The backbone's learning rate. `null`: the same as of the other parameters."""
    layer_decay: Annotated[Float, Field(gt=0, le=1)] = 1.0
    """Layer-wise decay: the learning rate of a backbone depth relative to the next; the last has `backbone_lr`."""
    lr_factors: dict[str, Factor] = Field(default_factory=dict)
    """Learning rate factors by parameter pattern, as in `{heads.detection.*: 10}`. If several match, all apply."""
    matrices: Literal["all", "convolutions"] = "all"
    """The weights that `muon` trains: of all linear and convolution layers, or of convolutions only, which costs less
    for small batches on a CPU. The others have AdamW."""
    weight_decay: Rate = 1e-4
    """Weight decay; not applied to norms, biases and position embeddings."""
    betas: Annotated[tuple[Momentum, Momentum] | None, BeforeValidator(as_tuple)] = None
    """Adam's betas. `null`: `[0.9, 0.999]`; those of a `module:Class` are its own."""
    schedule: Annotated[Literal["constant", "cosine", "poly", "step"] | Named, BeforeValidator(module_section)] = (
        "cosine"
    )
    """The learning rate after the warm-up: constant, half a cosine, polynomial decay (power 0.9), divided by 10 once,
    or a function of the step: `module:function` or `{name: module:function, options}`."""
    warmup: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Linear warm-up from 0, as a fraction of the training."""
    warmup_steps: Annotated[Int, Field(ge=0)] | None = None
    """Instead of `warmup`: the warm-up in optimiser steps, independent of the budget, as in papers."""
    drop_at: Annotated[Float, Field(gt=0, le=1)] = 0.67
    """The fraction of the training at which `step` divides by 10."""
    min_lr_ratio: Annotated[Float, Field(ge=0, le=1)] = 0.0
    """The final learning rate of `cosine` and `poly`, as a fraction of the learning rate."""

    @model_validator(mode="before")
    @classmethod
    def _one_learning_rate(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = cls._of_built_in(values)
            given = [key for key in ("lr", "lr_per_256") if values.get(key) is not None]
            if len(given) == 2:
                raise ValueError("lr and lr_per_256 are both given; keep one.")
            if values.get("matrices", "all") != "all" and values.get("name", "adamw") != "muon":
                raise ValueError("matrices are of the optimiser muon. Leave them out, or set optim.name: muon.")
            if values.get("warmup") and values.get("warmup_steps"):
                raise ValueError("warmup and warmup_steps are both given; keep one.")
            if not given:
                return {**values, "lr": 1e-4}
        return values

    @classmethod
    def _of_built_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values with the betas of a built-in optimiser, which has no other options."""
        if values.get("name", "adamw") not in OPTIMISERS:
            return values
        extra = [key for key in values if key not in cls.model_fields]
        if extra:  # as pydantic reports it for sections with fixed keys
            errors = [InitErrorDetails(type="extra_forbidden", loc=(key,), input=values[key]) for key in extra]
            raise ValidationError.from_exception_data("OptimSection", errors)
        return {**values, "betas": (0.9, 0.999)} if values.get("betas") is None else values


class TrainerSection(Section):
    """Training budget, hardware, validation, checkpoints and logging."""

    max_images: Count | None = None
    """The training budget in images over all processes, independent of the size of the data set. One of `max_images`,
    `max_steps` and `max_epochs` is required."""
    max_steps: Count | None = None
    """The budget in optimiser steps."""
    max_epochs: Count | None = None
    """The budget in passes over the data set."""
    precision: Literal["auto", "32", "16-mixed", "bf16-mixed", "bf16-true", "64"] = "auto"
    """`auto`: bf16-mixed if the hardware supports it, else 32."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    """`auto`: the best available one."""
    devices: Annotated[Count, Field(le=2**16)] | str = "auto"
    """Number of devices, or their indices (`"0,2"`)."""
    num_nodes: Annotated[Count, Field(le=2**16)] = 1
    """Number of nodes."""
    strategy: str = "auto"
    """How several devices train: `ddp` (each holds the model), `fsdp2` (each holds a part of it), or another strategy
    of Lightning's. `auto`: `ddp` with several devices."""
    clip_grad_norm: Annotated[Float, Field(gt=0)] | None = None
    """Clips the norm of the gradients. `null`: no clipping."""
    accumulate: Count = 1
    """Batches per optimiser step. Losses are normalised over all of them, as those of one large batch."""
    evaluate_every: Annotated[Float, Field(gt=0, allow_inf_nan=False)] = 0.25
    """Interval between validations: below 1 a fraction of the training, 0.25 for four validations; from 1 on, epochs.
    The last step is always followed by one."""
    checkpoint_every: Count | Duration | None = "5min"
    """Interval between writes of `last.ckpt`, in addition to those after validations: optimiser steps, or a time as in
    `30s`, `5min` or `1h`. `null`: no others."""
    compile: bool = False
    """Compile the model with `torch.compile`."""
    monitor: str | None = None
    """The metric that selects the best epoch, `detection/AP`. `null`: the head's main metric; for several heads, their
    main metrics relative to the best value of each so far."""
    patience: Count | None = None
    """Early stopping: ends the training after this many validations in a row without a better `monitor`. `null`: the
    whole budget."""
    ema: Annotated[Float, Field(gt=0, lt=1)] | None = None
    """Decay of the exponential moving average of the weights, which is then evaluated and saved. `null`: none."""
    log_every: Count = 50
    """Optimiser steps between lines of losses in `metrics.csv`."""
    callbacks: Annotated[tuple[PluginSection, ...], BeforeValidator(as_sections)] = ()
    """Lightning callbacks: `[{name: module:Class, options}]`."""
    loggers: Annotated[tuple[PluginSection, ...] | None, BeforeValidator(as_sections)] = None
    """Lightning loggers besides `metrics.csv`: `tensorboard`, `wandb`, `mlflow`, or `{name: module:Class, options}`.
    `null`: `tensorboard` if it is installed."""
    non_finite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite: `stop` ends the training with the layer it started in and a file that
    repeats the step; `skip` leaves the step out and counts it."""
    stall_after: Duration | None = "10min"
    """A time, as in `30s`, `5min` or `1h`, without a finished training or validation step, after which stderr shows
    what the training waits for. `null`: never."""
    sync_batchnorm: bool = False
    """Compute the statistics of batch norm over all processes, on NVIDIA GPUs."""
    keep_checkpoints: Count | None = 2
    """Number of checkpoints to keep: `last.ckpt` and those before it, as `step-N.ckpt`. `null`: all."""
    tf32: bool = False
    """TF32 for fp32 matrix products and convolutions on NVIDIA GPUs: faster, with 10 bits of precision."""
    channels_last: bool = False
    """Keep images and kernels in torch's memory format `channels_last`, which is faster for convolutions on GPUs."""

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
            raise ValueError(f"give a fraction of the training below 1, or a whole number of epochs, not {value:g}.")
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
    """Windows and test-time augmentation in validation, `evaluate` and `predict`; by default none.

    Dense predictions for a pixel are averaged. Boxes of windows are merged; flips and scales do not apply to them.
    Heads of masks and keypoints are predicted in one pass of the whole image.
    Sides are in pixels of the image as resized for evaluation.
    """

    window: Sides = None
    """Side, or `[height, width]`, of sliding windows. `null`: the whole image."""
    stride: Sides = None
    """Stride, or `[down, across]`, of the windows. `null`: two thirds of the window, rounded."""
    average: Literal["logits", "probabilities"] = "logits"
    """Whether logits or probabilities of class maps are averaged. Maps without classes, such as depth, are averaged
    directly."""
    flip: bool = False
    """Also predicts on the horizontally flipped image."""
    scales: Annotated[tuple[Factor, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (1.0,)
    """Predicts on the image resized by each of these factors."""
    batch_size: Count = 4
    """Batch size of windows, or of flips of a whole image."""

    @field_validator("stride")
    @classmethod
    def _covers_every_pixel(cls, stride: Any, info: ValidationInfo) -> Any:
        if stride is None or "window" not in info.data:  # an invalid window is reported on its own
            return stride
        window = info.data["window"]
        if window is None:
            raise ValueError(f"a stride of {_shown(stride)} needs a window. Set inference.window too, or leave it out.")
        if any(step > side for step, side in zip(_pair(stride), _pair(window), strict=True)):
            raise ValueError(
                f"{_shown(stride)} is more than inference.window, {_shown(window)}, and skips pixels. "
                "Expected at most the window; null is two thirds of it."
            )
        return stride

    @property
    def once(self) -> bool:
        """Whether there is one prediction of the whole image, and nothing to average."""
        return self.window is None and not self.flip and self.scales == (1.0,)

    @property
    def window_sides(self) -> tuple[int, int] | None:
        """(height, width)."""
        return None if self.window is None else _pair(self.window)

    @property
    def strides(self) -> tuple[int, int] | None:
        """(down, across); None without windows."""
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
    """The file of each key, or the command line. Not compared: configs with other sources are equal."""

    by_key: dict[tuple[str, ...], str] = field(default_factory=dict, compare=False)

    def of(self, key: tuple[str, ...]) -> str:
        """The source of a key, or of the nearest section above it; empty for a config created in Python."""
        while key and key not in self.by_key:
            key = key[:-1]
        return self.by_key.get(key, "")


def _valid_head_names(heads: dict[str, HeadSection]) -> dict[str, HeadSection]:
    for name in heads:
        if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
            raise ValueError(f"{name!r} is not a valid name for a head: use letters, digits, _ and -.")
        if len(name) > 100:  # it is part of file names
            raise ValueError(f"{name[:20]}... is not a valid name for a head: {len(name)} letters, 100 are allowed.")
    return heads


Heads = Annotated[dict[str, HeadSection], AfterValidator(_valid_head_names)]


class ModelSections(Section):
    """The sections of a config that describe its model; the keys are those of `Config`."""

    weights: str | None = None
    weights_allow: Patterns = ()
    backbone: BackboneSection
    heads: Heads


class Config(Section):
    """The config of a training run, from `densevit.config.load`."""

    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0
    """Seed of weights, data order and augmentation."""
    weights: str | None = None
    """Pretrained weights of the whole model: a run folder, a file or `hf:ORG/NAME`. `null`: none."""
    weights_allow: Patterns = ()
    """Patterns of tensors that may be missing, unexpected or of another shape in these weights, as in
    `[heads.depth.*]`."""
    backbone: BackboneSection
    """The backbone, shared by all heads."""
    heads: Heads
    """The heads by name; any names, which prefix the metrics (`detection/AP`). `{}`: none, for a method that trains the
    backbone alone."""
    method: PluginSection = PluginSection(name="supervised")
    """How the model is trained: `{name: ..., options}`."""
    data: DataSection
    """The data set."""
    optim: OptimSection = Field(default_factory=OptimSection)
    """The optimiser."""
    trainer: TrainerSection
    """The training."""
    inference: InferenceSection = Field(default_factory=InferenceSection)
    """Test-time augmentation of dense heads in validation, evaluation and prediction."""
    _sources: Sources = PrivateAttr(default_factory=Sources)

    @property
    def inference_by_head(self) -> dict[str, InferenceSection]:
        """The sections `heads.NAME.inference` that are given."""
        return {name: head.inference for name, head in self.heads.items() if head.inference is not None}

    @property
    def model_sections(self) -> ModelSections:
        """The sections of the model, not copied: a change of the model's normalisation changes the config."""
        return ModelSections.model_construct(
            weights=self.weights, weights_allow=self.weights_allow, backbone=self.backbone, heads=self.heads
        )
