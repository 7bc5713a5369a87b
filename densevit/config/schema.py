"""Every key of a config, with its type, its default and what it means. A key that is not here is an error.

Sections that name a plugin also take that plugin's own options; `options` is those, and the plugin's constructor
decides on them (`check_plugins`).
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator, model_validator


def _number(value: Any) -> Any:
    """The number that a text spells ("1e-4"), where it spells one."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _whole(value: Any) -> Any:
    """1e4 as 10000, where a whole number is wanted."""
    value = _number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _size(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) != 2:
        raise ValueError(f"give one side or [height, width], in pixels, not {value}.")
    return _tuple(value)


Int = Annotated[int, BeforeValidator(_whole)]
Float = Annotated[float, BeforeValidator(_number)]
Count = Annotated[Int, Field(ge=1)]
Rate = Annotated[Float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[Float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Keys with a fixed meaning, and no others."""

    model_config = ConfigDict(
        extra="forbid", strict=True, validate_assignment=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class OpenSection(Section):
    """Keys with a fixed meaning, besides which a plugin's own options stand."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are the plugin's own: keyword arguments of its constructor."""
        return dict(self.model_extra or {})


class BackboneSection(OpenSection):
    """The backbone, and its options."""

    name: str
    """A plugin's name (`densevit plugins` lists them) or `module:Class`."""
    weights: str | None = None
    """A weights file for the backbone alone. `null`: random weights."""
    freeze: bool = False
    """Keep the backbone as it starts: no gradients, norms in evaluation mode."""


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
    weight: Rate = 1.0
    """What its losses are multiplied by."""
    weights: str | None = None
    """A weights file for the head alone. `null`: random weights."""
    freeze: bool = False
    """Keep the head as it starts."""
    neck: PluginSection | None = None
    """What stands between the backbone and this head: `{name: ..., options}`."""
    evaluation: EvaluationSection = EvaluationSection()
    """How this head is measured: `{name: ..., options}`."""


class DataSection(OpenSection):
    """The data set, how it is fed, and the data set's own options (`root`, for one, where it reads files)."""

    name: str
    """A plugin's name or `module:Class`."""
    batch_size: Count = 8
    """Pictures a step on one device."""
    num_workers: Annotated[Int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes that load pictures. `auto`: as many as the processor cores allow."""
    image_size: Annotated[Count | tuple[Count, Count] | None, BeforeValidator(_size)] = None
    """One side, or `[height, width]`, in pixels, of what the model sees. `null`: as the recipe has it."""
    recipe: Literal["fixed", "detr", "resize"] = "fixed"
    """Augmentation in training: `fixed` brings pictures to `image_size`; `detr` is that paper's, of
    many sizes; `resize` is `fixed` without augmentation."""
    group_by_aspect: bool = False
    """Batch wide pictures with wide and tall with tall ones: less padding."""


class OptimSection(Section):
    """The optimiser and the course of its learning rate."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """`sgd` takes the first of `betas` as its momentum."""
    lr: Annotated[Float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Learning rate; 1e-4 where `lr_per_256` is not given either."""
    lr_per_256: Annotated[Float, Field(gt=0, allow_inf_nan=False)] | None = None
    """In place of `lr`: the learning rate at 256 pictures an optimiser step, scaled to those in use."""
    backbone_lr: Rate | None = None
    """The backbone's learning rate. `null`: the same as the rest's."""
    weight_decay: Rate = 1e-4
    """Not applied to norms, biases and position tables."""
    betas: Annotated[tuple[Momentum, Momentum], BeforeValidator(_tuple)] = (0.9, 0.999)
    """The decay of Adam's two running means."""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    """The learning rate after the warm-up: as it is, along half a cosine, or divided by 10 once."""
    warmup_steps: Annotated[Int, Field(ge=0)] = 0
    """Optimiser steps in which the learning rate rises from 0."""
    drop_at: Annotated[Float, Field(gt=0, le=1)] = 0.67
    """The fraction of the training at which `step` divides by 10."""
    min_lr_ratio: Annotated[Float, Field(ge=0, le=1)] = 0.0
    """Where `cosine` ends, as a fraction of the learning rate."""

    @model_validator(mode="before")
    @classmethod
    def _one_learning_rate(cls, values: Any) -> Any:
        if isinstance(values, dict):
            given = [key for key in ("lr", "lr_per_256") if values.get(key) is not None]
            if len(given) == 2:
                raise ValueError("lr and lr_per_256 are both given; keep one.")
            if not given:
                return {**values, "lr": 1e-4}
        return values


class TrainerSection(Section):
    """How long and on what to train, and what to write down."""

    max_epochs: Count | None = None
    """Times through the data. This or `max_steps` must be given; with both, the first to come ends the training."""
    max_steps: Count | None = None
    """Optimiser steps."""
    precision: Literal["auto", "32", "16-mixed", "bf16-mixed", "bf16-true", "64"] = "auto"
    """`auto`: bf16-mixed where the hardware has it, else 32."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    """`auto`: the best that is there."""
    devices: Count | str = "auto"
    """How many, or which ones (`"0,2"`)."""
    num_nodes: Count = 1
    """Machines."""
    strategy: str = "auto"
    """How several devices share the work, as Lightning names it (`ddp`)."""
    clip_grad_norm: Annotated[Float, Field(gt=0)] | None = None
    """Gradients are scaled down to this norm. `null`: never."""
    accumulate: Count = 1
    """Batches an optimiser step."""
    evaluate_every: Count = 1
    """Epochs from one validation to the next."""
    checkpoint_every: Count | None = None
    """Optimiser steps from one `last.ckpt` to the next. `null`: one at the end of each epoch."""
    compile: bool = False
    """Compile the model with `torch.compile`."""
    monitor: str | None = None
    """The metric that picks the best epoch, `detection/AP`. `null`: each head's main metric."""
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

    @model_validator(mode="after")
    def _has_an_end(self) -> "TrainerSection":
        if self.max_epochs is None and self.max_steps is None:
            raise ValueError("set max_epochs or max_steps, else the training has no end.")
        return self


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

    seed: Annotated[Int, Field(ge=0)] = 0
    """Of weights, data order and augmentation."""
    weights: str | None = None
    """A whole model's weights to start from: a run folder or a file. `null`: none."""
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
    _sources: Sources = PrivateAttr(default_factory=Sources)

    @field_validator("heads")
    @classmethod
    def _names_that_metrics_can_carry(cls, heads: dict[str, HeadSection]) -> dict[str, HeadSection]:
        for name in heads:
            if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
                raise ValueError(f"{name!r} is no name for a head: use letters, digits, _ and -.")
        return heads
