"""The config sections of the model and of inference: backbone, heads, windows and test-time augmentation."""

import keyword
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, TypeAdapter, field_validator

from densevit.channels import Channels
from densevit.config.config_layers import ConfigLayer
from densevit.config.data_schema import DataSection
from densevit.config.values import (
    BY_NAME,
    RANDOM,
    Count,
    Factor,
    Frozen,
    FrozenDepths,
    OpenSection,
    Patterns,
    PerChannel,
    PluginName,
    PluginSection,
    Rate,
    Section,
    Sides,
    Source,
    as_tuple,
    rule,
)


def _as_channels(value: Any) -> Any:
    return TypeAdapter(Channels).validate_python(value, strict=False) if isinstance(value, dict) else value


class LoraSection(Section):
    """Low-rank adapters of the backbone (LoRA, Hu et al. 2021); the backbone's parameters are frozen."""

    rank: Count = 8
    """Rank of the adapters, r in the paper."""
    alpha: Factor = 16.0
    """The adapters' output is multiplied by alpha / rank."""
    targets: Annotated[Patterns, Field(min_length=1)] = ("*",)
    """Patterns of the adapted linear layers, such as `['*.qkv', '*.proj']`."""


class BackboneSection(OpenSection):
    """The backbone and its options."""

    name: PluginName
    """A plugin's name (`densevit plugins` lists them), `module:Class`, or a name of weights, whose backbone it is:
    `timm:NAME`, `hf:ORG/NAME`."""
    weights: Source | None = None
    """Pretrained weights of the backbone: a file or folder of densevit's or another project's, or `timm:NAME`,
    `torchvision:NAME`, `hf:ORG/NAME`. `random` or `null`: random weights; only `random` permits frozen random
    weights."""
    allow_mismatch: Patterns = ()
    """Patterns of tensors that may be missing, unexpected or of another shape in these weights, such as `[norm.*]`."""
    channels: Annotated[Channels | None, BeforeValidator(_as_channels)] = None
    """The channels of the images; training sets it from `data`. `null`: 8-bit RGB."""
    adapted_stem: Patterns = ()
    """The parameters of first layers that were adapted from weights for other channels; set by training. They are
    trained like heads, also in depths that `freeze` or `lora` freezes."""
    mean: PerChannel = None
    """Mean of normalisation per channel, of values in 0 ... 1 of the channel's range. `null`: from `weights`, or else
    the backbone's default; for channels other than RGB, from the training images."""
    std: PerChannel = None
    """Standard deviation of normalisation. `null`: as for `mean`."""
    black_padding: bool | None = None
    """Whether padding is black before normalisation; `false`: it has the mean colour, 0 after normalisation. `null`:
    from `weights`, or else the backbone's default, `false` in all shipped ones."""
    freeze: FrozenDepths = False
    """`true` freezes the backbone: no gradients, norms in evaluation mode. Or the number of frozen depths, from the
    input, or patterns of parameters, such as `[patch_*, stages.0.*]`."""
    cache: Literal["fp32", "fp16"] | None = None
    """Computes the features of a frozen backbone once for each image, and keeps them on disk in this precision. Needs
    `freeze: true` and images that training does not change (`data.transforms: resize`). `null`: no."""
    lora: LoraSection | None = None
    """Trains low-rank adapters in place of the backbone's parameters: `{rank: 8, alpha: 16, targets: ['*']}`.
    `null`: none."""

    _has_weights = rule(
        field_validator("allow_mismatch"),
        lambda patterns, above: (
            patterns
            and above.get("weights") == RANDOM
            and f"{[*patterns]} has no effect, as backbone.weights is {RANDOM}. Fix: set it to []."
        ),
    )
    _std_above_zero = rule(
        field_validator("std"),
        lambda std, _: 0 in (std or ()) and f"pixels are divided by these numbers, so none may be 0: {[*std]}.",
    )
    _is_frozen = rule(
        field_validator("cache"),
        lambda cache, above: (
            cache is not None
            and above.get("freeze") is not True
            and f"features of a backbone that is trained change in each step; {cache} needs backbone.freeze=true. "
            "Set it too, or leave out backbone.cache."
        ),
    )
    _freezes_the_rest = rule(
        field_validator("lora"),  # an invalid `freeze` is reported separately
        lambda lora, above: (
            lora is not None
            and above.get("freeze", False)
            and "adapters are trained in a frozen backbone, and backbone.freeze is set. Leave backbone.freeze out; "
            "backbone.lora.targets selects the layers with adapters."
        ),
    )

    @property
    def source(self) -> str | None:
        """The source of pretrained weights; None: random."""
        return None if self.weights == RANDOM else self.weights

    @property
    def unloaded_options(self) -> dict[str, Any]:
        """The options with `pretrained: true` off, so that timm's backbones load no weights."""
        return {key: False if key == "pretrained" and value is True else value for key, value in self.options.items()}


class EvaluationSection(OpenSection):
    """The evaluator of a head, and the evaluator's options."""

    name: PluginName | None = None
    """A plugin's name or `module:Class`. `null`: the evaluator with the name of the head's task."""


class InferenceSection(Section):
    """Windows and test-time augmentation in validation, `evaluate` and `predict`; by default none.

    Averages dense predictions per pixel, and merges boxes of windows. Flips and scales do not apply to boxes, nor `nms`
    to maps; masks and keypoints are predicted in one pass.
    Sides are in pixels of the image after the evaluation transform.
    """

    window: Sides = None
    """Side, or `[height, width]`, of sliding windows. `null`: the full image."""
    stride: Sides = None
    """Stride, or `[down, across]`, of the windows. `null`: two thirds of the window, rounded."""
    average: Literal["logits", "probabilities"] = "logits"
    """Whether to average logits or probabilities of class maps. Maps without classes, such as depth, are averaged
    directly."""
    flip: bool = False
    """Also predicts on the horizontally flipped image."""
    scales: Annotated[tuple[Factor, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (1.0,)
    """Predicts on the image resized by each of these factors."""
    batch_size: Count = 4
    """Batch size of windows, or of flips of a full image."""
    nms: Annotated[Factor, Field(le=1)] | None = None
    """Removes a box whose IoU with a higher-scoring box of its class is larger, such as 0.6. For heads without NMS,
    which predict several boxes per object after a short run. `null`: keeps all boxes."""

    _has_a_window = rule(
        field_validator("stride"),
        lambda stride, above: (
            stride is not None
            and above.get("window", 0) is None
            and f"a stride of {stride} needs a window. Set inference.window too, or leave it out."
        ),
    )
    _covers_every_pixel = rule(
        field_validator("stride"),
        lambda stride, above: (
            stride is not None
            and "window" in above  # an invalid window is reported separately
            and any(step > side for step, side in zip(_pair(stride), _pair(above["window"]), strict=True))
            and f"{stride} is more than inference.window, {above['window']}, and skips pixels. "
            "Expected at most the window; null is two thirds of it."
        ),
    )

    @property
    def single_pass(self) -> bool:
        """Whether prediction is one forward pass, without windows, flips and scales."""
        return self.window is None and not self.flip and self.scales == (1.0,)

    @property
    def window_sides(self) -> tuple[int, int] | None:
        """(height, width)."""
        return None if self.window is None else _pair(self.window)

    @property
    def strides(self) -> tuple[int, int] | None:
        """(down, across), by default two thirds of the window; None without windows."""
        if self.window is None:
            return None
        if self.stride is not None:
            return _pair(self.stride)
        height, width = _pair(self.window)
        return max(1, round(2 * height / 3)), max(1, round(2 * width / 3))


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


class NeckSection(PluginSection):
    """A neck and its options."""

    weights: Source | None = None
    """Pretrained weights of the neck alone: a run or a model file with a neck of this head's name, or a state dict.
    `null`: those of the head's `weights`, or random ones."""
    allow_mismatch: Patterns = ()
    """Patterns of tensors that may be missing, unexpected or of another shape in these weights."""


class HeadSection(PluginSection):
    """A head and its options."""

    loss_weight: Rate | Literal["learned"] = 1.0
    """Weight of the head's losses. `learned`: by uncertainty, trained with the model."""
    weights: Source | None = None
    """Pretrained weights of the head and its neck; from another project's model, the weights of its head for the same
    task. `null`: random weights."""
    allow_mismatch: Patterns = ()
    """Patterns of tensors that may be missing, unexpected or of another shape in these weights."""
    freeze: Frozen = False
    """`true` freezes the head and its neck. Or patterns of parameters, such as `[decoder.*, neck.*]`."""
    neck: Annotated[NeckSection, "necks"] | None = None
    """The neck between the backbone and this head: `{name: ..., options}`."""
    evaluation: Annotated[EvaluationSection, "evaluators"] | None = EvaluationSection()
    """The evaluator of this head: `{name: ..., options}`. `null`: the mean loss over the validation images."""
    inference: InferenceSection | None = None
    """Windows and test-time augmentation of this head. `null`: the section `inference`."""


Heads = Annotated[
    dict[str, Annotated[HeadSection, "heads"]],
    BY_NAME,
    rule(
        AfterValidator,
        lambda heads, _: next(
            (
                f"{name[:100]!r} is not a valid name for a head: use letters, digits, _ and -, at most 100, and no "
                "keyword of Python."
                for name in heads  # part of files and of code
                if not re.fullmatch(r"[A-Za-z_][\w-]{0,99}", name) or keyword.iskeyword(name)
            ),
            None,
        ),
    ),
]


class ModelSections(Section):
    """The sections of a model: backbone, heads and inference, and the data that it was trained on.

    A `DenseModel` is built from them, and a model file contains them. A `Config` adds the sections of a run.
    """

    weights: Source | None = None
    """Pretrained weights of the complete model: a run folder, a file or `hf:ORG/NAME`. `null`: none."""
    allow_mismatch: Patterns = ()
    """Patterns of tensors that may be missing, unexpected or of another shape in these weights, such as
    `[heads.depth.*]`."""
    backbone: Annotated[BackboneSection, "backbones"]
    """The backbone, shared by all heads. Without a name, if `weights` is a run or a model file: its backbone, frozen as
    there, with the keys of this section."""
    heads: Heads
    """The heads by name. You choose the names; they prefix the metrics (`detection/AP`). `{}`: no heads, for a method
    that trains only the backbone."""
    data: Annotated[DataSection, "datasets"] | None = None
    """The training data, which determines image sizes in prediction; None if unknown."""
    inference: InferenceSection = InferenceSection()
    """Test-time augmentation of dense heads in validation, evaluation and prediction."""
    _layer: ConfigLayer = PrivateAttr(default_factory=lambda: ConfigLayer({}))

    @property
    def replace_layers(self) -> bool:
        """Whether faster functions replace plain ones in the built model (`densevit.layers.fast.replacement`). A
        backbone alone keeps the plain ones."""
        return bool(self.heads)

    @property
    def inference_by_head(self) -> dict[str, InferenceSection]:
        """The sections `heads.NAME.inference` that are set."""
        return {name: head.inference for name, head in self.heads.items() if head.inference is not None}
