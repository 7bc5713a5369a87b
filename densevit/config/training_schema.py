"""The config sections `optim` and `trainer`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from densevit.config.values import (
    Count,
    Decay,
    Duration,
    Factor,
    Float,
    Int,
    Named,
    NamedSection,
    OpenSection,
    PluginName,
    Rate,
    Section,
    as_section,
    as_tuple,
    module_section,
    rule,
)

BUDGETS = ("max_images", "max_steps", "max_epochs")
EVALUATIONS = ("evaluations", "evaluate_every_epochs")
"""Keys of `trainer`; exactly one is set."""


class OptimSection(OpenSection):
    """The optimiser with its options, and the learning rate schedule."""

    name: PluginName = "adamw"
    """A plugin's name, such as `adamw`, or `module:Class`, such as `torch.optim:RAdam`."""
    lr: Annotated[Float, Field(gt=0, le=1e6)] | None = None
    """Learning rate; 1e-4 if `lr_per_256` is not set either."""
    lr_per_256: Annotated[Float, Field(gt=0, le=1e6)] | None = None
    """Instead of `lr`: the learning rate for 256 images per optimiser step, scaled linearly to the actual number."""
    backbone_lr: Rate | None = None
    """The backbone's learning rate. `null`: the learning rate of the other parameters."""
    layer_decay: Annotated[Float, Field(gt=0, le=1)] = 1.0
    """Layer-wise decay: the learning rate of a backbone depth relative to the next; the last has `backbone_lr`."""
    lr_factors: dict[str, Factor] = Field(default_factory=dict)
    """Learning rate factors by parameter pattern, as in `{heads.detection.*: 10}`. If several match, all apply."""
    weight_decay: Rate = 1e-4
    """Weight decay; not applied to norms, biases and position embeddings."""
    final_weight_decay: Rate | None = None
    """Weight decay at the end of training, reached from `weight_decay` by half a cosine, as in DINO. `null`:
    constant."""
    schedule: Annotated[Literal["constant", "cosine", "poly", "step"] | Named, BeforeValidator(module_section)] = (
        "cosine"
    )
    """The learning rate after the warm-up: constant, half a cosine, polynomial decay, divided by 10 once,
    or a function of the step: `module:function` or `{name: module:function, options}`."""
    warmup: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Linear warm-up from 0, as a fraction of training."""
    warmup_steps: Annotated[Int, Field(ge=0)] | None = None
    """Instead of `warmup`: the warm-up in optimiser steps, independent of the budget, as in papers."""
    drop_at: Annotated[Float, Field(gt=0, le=1)] = 0.67
    """The fraction of training at which `step` divides by 10."""
    power: Annotated[Float, Field(gt=0)] = 0.9
    """The exponent of `poly`; 0.9 is DeepLab's (Chen et al. 2017, section 4.1), 1 a linear decay."""
    min_lr_ratio: Annotated[Float, Field(ge=0, le=1)] = 0.0
    """The final learning rate of `cosine` and `poly`, as a fraction of the learning rate."""

    @model_validator(mode="before")
    @classmethod
    def _default_lr(cls, values: Any) -> Any:
        section = as_section(values)
        is_set = not isinstance(section, dict) or any(section.get(key) is not None for key in ("lr", "lr_per_256"))
        return section if is_set else {**section, "lr": 1e-4}

    _one_rate = rule(
        model_validator(mode="after"),
        lambda optim, _: None not in (optim.lr, optim.lr_per_256) and "lr and lr_per_256 are both set; keep one.",
    )
    _decays = rule(
        model_validator(mode="after"),
        lambda optim, _: (
            optim.final_weight_decay is not None
            and optim.weight_decay == 0
            and "final_weight_decay is a multiple of weight_decay, which must be above 0."
        ),
    )
    _one_warmup = rule(
        model_validator(mode="after"),
        lambda optim, _: optim.warmup and optim.warmup_steps and "warmup and warmup_steps are both set; keep one.",
    )


class TrainerSection(Section):
    """Training budget, hardware, validation, checkpoints and logging."""

    max_images: Count | None = None
    """The training budget in images over all processes, independent of the size of the data set. Exactly one of
    `max_images`, `max_steps` and `max_epochs` is required."""
    max_steps: Count | None = None
    """The budget in optimiser steps."""
    max_epochs: Count | None = None
    """The budget in passes over the data set."""
    precision: Annotated[
        Literal["auto", "32", "16-mixed", "bf16-mixed", "bf16-true", "64"],
        BeforeValidator(lambda value: str(value) if type(value) is int else value),
    ] = "auto"
    """`auto`: bf16-mixed if the hardware supports it, else 32."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    """`auto`: the best available accelerator."""
    devices: Annotated[Count, Field(le=2**16)] | str = "auto"
    """Number of devices, or their indices (`"0,2"`)."""
    num_nodes: Annotated[Count, Field(le=2**16)] = 1
    """Number of nodes."""
    strategy: str = "auto"
    """Training on several devices: `ddp` (each holds the complete model), `fsdp2` (each holds a part), or another
    Lightning strategy. `auto`: `ddp` with several devices."""
    clip_grad_norm: Annotated[Float, Field(gt=0)] | None = None
    """Clips the norm of the gradients. `null`: no clipping."""
    accumulate: Count = 1
    """Batches per optimiser step. Losses are normalised over all of them, as in one large batch, unless the divisor is
    only known after the forward pass (boxes in `dfine`, `gtr`, `one_stage`, `faster_rcnn`, `fcos`, dense losses (`ddq`,
    `box_query_detr`), contrastive denoising, `ohem_threshold`, `class_weights: balanced`). These losses, and losses of
    methods other than `supervised`, are means over the batches."""
    evaluations: Count | None = None
    """Number of validations, at equal intervals; 4 if `evaluate_every_epochs` is not set either. 1: only at the end."""
    evaluate_every_epochs: Count | None = None
    """Epochs between validations. The last one follows the last step."""
    checkpoint_every: Count | Duration | None = "5min"
    """Interval between writes of `last.ckpt`, in addition to the writes after validations: optimiser steps, or a time
    such as `30s`, `5min` or `1h`. `null`: only after validations."""
    compile: bool = False
    """Compile the repeated blocks of the model with `torch.compile`."""
    replace_layers: bool = True
    """Replaces four functions that models call by faster ones with equal results up to rounding: attention, shifted
    windows, deformable attention, and a convolution with its norm. `false`: the plain functions."""
    monitor: str | None = None
    """The metric that selects the best epoch, such as `detection/AP`. `null`: the head's main metric; for several
    heads, their main metrics, each relative to its best value so far."""
    patience: Count | None = None
    """Early stopping: ends training after this many consecutive validations without a better `monitor`. `null`: trains
    for the full budget."""
    ema: Decay | None = None
    """Decay of the exponential moving average (EMA) of the weights, which is evaluated and saved. `null`: no EMA."""
    ema_warmup: Count | None = None
    """Warm-up of `ema` in optimiser steps: the decay of step n is `ema * (1 - exp(-n / ema_warmup))`, as in RT-DETR
    (2000) and D-FINE (1000), and the average starts with the initial weights. `null`: `ema` from the second step on."""
    log_every: Count = 50
    """Optimiser steps between rows of losses in `metrics.csv`."""
    callbacks: Annotated[tuple[NamedSection, ...], BeforeValidator(as_tuple)] = ()
    """Lightning callbacks: `[{name: module:Class, options}]`."""
    loggers: Annotated[tuple[NamedSection, ...] | None, BeforeValidator(as_tuple)] = None
    """Lightning loggers in addition to `metrics.csv`: `tensorboard`, `wandb`, `mlflow`, or `{name: module:Class,
    options}`. `null`: `tensorboard` if it is installed."""
    detect_anomaly: bool = False
    """Check each layer's output and gradient, which is slow; the first value that is not finite ends training with the
    layer's name. For resuming a run that such a value ended."""
    stall_after: Duration | None = "10min"
    """If no training or validation batch ends within this time, such as `30s`, `5min` or `1h`, stderr shows the stacks
    of all threads. `null`: never."""
    sync_batchnorm: bool = False
    """Compute the statistics of batch norm over all processes, on NVIDIA GPUs."""
    keep_checkpoints: Count | None = 2
    """Number of checkpoints to keep: `last.ckpt` and earlier ones, as `step-N.ckpt`. `null`: all."""
    tf32: bool = False
    """TF32 for fp32 matrix products and convolutions on NVIDIA GPUs: faster, with 10 bits of precision."""
    channels_last: bool = False
    """Keep images and kernels in torch's memory format `channels_last`, which is faster for convolutions on GPUs."""

    _warms_up_an_average = rule(
        field_validator("ema_warmup"),
        lambda steps, above: (
            steps is not None
            and above.get("ema", 0) is None
            and "there is no average to warm up. Set trainer.ema, such as 0.9999, or leave it out."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _default_evaluations(cls, values: Any) -> Any:
        is_set = not isinstance(values, dict) or any(values.get(key) is not None for key in EVALUATIONS)
        return values if is_set else {**values, "evaluations": 4}

    _one_interval = rule(
        model_validator(mode="after"),
        lambda trainer, _: (
            None not in (trainer.evaluations, trainer.evaluate_every_epochs)
            and "evaluations and evaluate_every_epochs are both set; keep one."
        ),
    )
    _one_budget = rule(
        model_validator(mode="after"),
        lambda trainer, _: (
            [trainer.max_images, trainer.max_steps, trainer.max_epochs].count(None) != 2
            and "set exactly one of max_images, max_steps and max_epochs."
        ),
    )
