"""The model: normalisation, one backbone, and a head with its neck for each task."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from densevit.config import DataSection, InferenceSection, ModelSections
from densevit.config.values import with_value
from densevit.errors import ConfigError, PluginError, counted
from densevit.interfaces import (
    DEFAULT_THRESHOLD,
    Backbone,
    Batch,
    Class,
    DenseHead,
    Encoding,
    Head,
    Losses,
    Neck,
    Outputs,
    Predictions,
    Targets,
    TokenBackbone,
)
from densevit.layers.fast.replacement import replace_layers
from densevit.layers.precision import HALF, in_float32
from densevit.losses.context import LossContext, step_context
from densevit.model import test_time_augmentation, tiled_detection
from densevit.model.compiling import compile_regions
from densevit.model.freezing import frozen_modules
from densevit.targets.types import TargetTypes

HeadWeight = float | Literal["learned"]
PerChannel = tuple[float, ...]

_FINGERPRINTED = 16  # values of each tensor


class DenseModel(nn.Module):
    """A backbone with one or more named heads, each with an optional neck.

    weights: the loss weight of each head, 1 by default. "learned" weights losses by uncertainty (Kendall et al. 2018,
    section 3): the sum L of a head's losses becomes L / sigma^2 + log sigma, the paper's term for classification,
    computed as exp(-s) L + s / 2 with one parameter s = log(sigma^2) per head. (The paper halves L for regression.)
    classes: the classes that each head predicts. score_thresholds: the minimum score of the objects that `predict`
    returns by default, for each head, computed in validation. sections: the config, or the sections of it, that the
    model was built from, which a model file contains; None for a model built in Python from modules. training_data: the
    section `data` of its training, by which a `Predictor` resizes images; None if unknown. licences: those of the
    published weights that it started from, by source. The model does not use the last four.
    """

    heads: Mapping[str, Head]  # an nn.ModuleDict, whose values have the type nn.Module for mypy
    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor
    resizes = False  # True: an exported file that resizes images itself, and gets them at their size

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        necks: Mapping[str, Neck] | None = None,
        weights: Mapping[str, HeadWeight] | None = None,
        sections: ModelSections | None = None,
    ) -> None:
        super().__init__()
        for name, head in heads.items():
            _check_number_of_classes(name, head)
            _check_last_blocks(name, head, backbone, name in (necks or {}))
        self.backbone = backbone
        self.heads = cast("Mapping[str, Head]", nn.ModuleDict(heads))
        self.necks = nn.ModuleDict(necks or {})
        self.classes: dict[str, tuple[Class, ...]] = {name: head.classes for name, head in heads.items()}
        self.score_thresholds: dict[str, float] = {}
        self.target_types = {name: head.target_types for name, head in heads.items()}
        self.weights = {name: (weights or {}).get(name, 1.0) for name in heads}
        learned = [name for name, weight in self.weights.items() if weight == "learned"]
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in learned})
        self.sections = sections
        self.training_data: DataSection | None = None if sections is None else sections.data
        self.licences = dict(backbone.licences)
        own = None if sections is None else sections.backbone.channels
        self.channels = own or backbone.image_channels
        for name, values in zip(("low", "high"), zip(*self.channels.range, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.register_buffer("mean", torch.empty_like(self.low), persistent=False)
        self.register_buffer("std", torch.empty_like(self.low), persistent=False)
        self._set_normalisation()
        if sections is None or sections.replace_layers:
            replace_layers(self)

    def with_heads(self, names: Collection[str]) -> "DenseModel":
        """A model with these heads only, and all else of this one: it shares parameters, buffers and hooks."""
        part = object.__new__(type(self))
        part.__setstate__(self.__getstate__())  # without the compiled forward
        part._modules = {**self._modules}
        for key in ("heads", "necks", "log_variances", "classes", "score_thresholds", "target_types", "weights"):
            of_all = getattr(self, key)
            setattr(part, key, type(of_all)({name: value for name, value in of_all.items() if name in names}))
        if self.sections is not None:
            heads = {name: head for name, head in self.sections.heads.items() if name in names}
            part.sections = self.sections.model_copy(update={"heads": heads})
        return part.train(self.training)

    def blank_images(self, count: int, size: tuple[int, int]) -> Tensor:
        """Images (count, C, *size) of zeros, of the type of the channels, on the CPU."""
        return torch.zeros(count, len(self.channels.names), *size, dtype=getattr(torch, self.channels.dtype))

    @property
    def default_thresholds(self) -> dict[str, float]:
        """The minimum score of the objects that each head draws, lists and counts by default: that of its validation,
        or 0.5.
        """
        return {name: self.score_thresholds.get(name, DEFAULT_THRESHOLD) for name in self.heads}

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits from classes and weights, equal on each device. Of each tensor only the first
        values are used, which differ after any training of it."""
        digest = hashlib.blake2b(digest_size=8)
        for name, classes in self.classes.items():
            digest.update(repr((name, [(one.file_id, one.name) for one in classes])).encode())
        for name, value in self.state_dict().items():
            first = value.flatten()[:_FINGERPRINTED].cpu().double().numpy()
            digest.update(f"{name}{tuple(value.shape)}".encode() + first.tobytes())
        return digest.hexdigest()

    @property
    def multiple(self) -> int:
        """Heights and widths are padded to multiples of this: the backbone's `size_multiple`, or its coarsest stride; 1
        if `input_size` is fixed."""
        return 1 if self.backbone.input_size else self.backbone.size_multiple or max(self.backbone.strides)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compiles the repeated blocks of backbone, heads and necks, see `densevit.model.compiling`."""
        compile_regions((self.backbone, *self.heads.values(), *self.necks.values()), *args, **options)

    def plugin_name(self, head: str) -> str:
        """The plugin name of a head, for messages; its class name in a model built from modules."""
        return type(self.heads[head]).__name__ if self.sections is None else self.sections.heads[head].name

    def set_normalisation(self, mean: PerChannel | None, std: PerChannel | None) -> None:
        """Replaces mean and std, of values in 0 ... 1, in backbone, model and sections. None keeps a value."""
        self.backbone.mean, self.backbone.std = mean or self.backbone.mean, std or self.backbone.std
        self._set_normalisation()
        for key, values in (("mean", mean), ("std", std)):
            if self.sections is not None and values:
                self.sections = with_value(self.sections, ("backbone", key), values)

    def _set_normalisation(self) -> None:
        """Sets the buffers `mean` and `std`, in values of the images, from the backbone's."""
        span = self.high - self.low
        self.mean.copy_(self.low + span * torch.tensor(self.backbone.mean)[:, None, None])
        self.std.copy_(span * torch.tensor(self.backbone.std)[:, None, None])

    def forward(
        self,
        batch: Batch,
        heads: Collection[str] | None = None,
        head_targets: Mapping[str, list[Targets]] | None = None,
    ) -> dict[str, Outputs]:
        """Returns each head's outputs. Heads get the targets in training mode only.

        heads: names; None: all heads. head_targets: targets of single heads, in place of the batch's.
        """
        names = [name for name in self.heads if heads is None or name in heads]
        encoding = self.encode(batch, names)
        outputs = {}
        for name in names:
            head, blocks = self.heads[name], encoding.last_blocks
            features: Any = (
                blocks[head.last_blocks]
                if head.last_blocks
                else self.head_inputs(name, encoding.features, batch["padding_mask"])
            )
            targets = None
            if self.training:
                targets = head_targets[name] if head_targets and name in head_targets else batch["targets"]
            outputs[name] = head(features, batch["padding_mask"], targets)
        return outputs

    def encode(self, batch: Batch, heads: Collection[str]) -> Encoding:
        """Runs the backbone on a batch, for these heads: its feature maps, and its last blocks for heads that run them
        themselves. Without the former, the blocks that heads run are not computed."""
        images = self.normalise(batch["images"], batch["padding_mask"])
        counts = {self.heads[name].last_blocks for name in heads} - {0}
        if counts and isinstance(self.backbone, TokenBackbone):
            others = any(not self.heads[name].last_blocks for name in heads)
            encoding = self.backbone.encode(images, counts, others)
            if others:
                _check_features(self.backbone, encoding.features)
            return encoding
        features = self.backbone(images)
        _check_features(self.backbone, features)
        return Encoding(features, {})

    def head_inputs(self, head: str, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """Returns the input features of a head: those of its neck, or the backbone's if it has none. head: its name.

        Raises PluginError for a head that runs the backbone's last blocks: it takes no features.
        """
        if self.heads[head].last_blocks:
            raise PluginError(
                f"heads.{head} ({self.plugin_name(head)}) runs the backbone's last blocks and takes no feature maps. "
                "Fix: call model(batch), or model.encode(batch, heads)."
            )
        return self.necks[head](features, padding_mask) if head in self.necks else features

    def normalise(self, images: Tensor, padding_mask: Tensor) -> Tensor:
        """Normalises images (B, C, H, W) of the type of `channels` by the backbone's mean and std. Padding (B, H, W)
        becomes exactly 0.

        Of other channels than RGB of 8 bits, values are clipped to the range, and NaN becomes 0, the mean. Computed in
        float32 at least; the result has the dtype of the backbone's parameters.
        """
        pixels = images.to(self.mean.dtype)
        if not self.channels.is_rgb:
            pixels = pixels.clamp(self.low, self.high)
        pixels = (pixels - self.mean) / self.std
        if self.channels.dtype == "float32":
            pixels = pixels.nan_to_num(nan=0.0)
        dtypes = (p.dtype for p in self.backbone.parameters() if p.is_floating_point())
        return pixels.masked_fill_(padding_mask[:, None], 0.0).to(next(dtypes, pixels.dtype))

    def loss_context(self, targets: Sequence[list[Targets]], step: int = 0, batches: int | None = None) -> LossContext:
        """Returns the loss context of an optimiser step of several batches. All processes must call it together.

        targets: one list per batch, on the CPU. step: number of the optimiser step. batches: divisor of the sum of the
        gradients; None: the number of batches.
        """
        counts = {name: [head.loss_counts(one) for one in targets] for name, head in self.heads.items()}
        return step_context(counts, batches or len(targets), step, self.mean.device)

    def loss(
        self,
        outputs: Mapping[str, Outputs],
        targets: list[Targets],
        context: LossContext | None = None,
        head_targets: Mapping[str, list[Targets]] | None = None,
    ) -> Losses:
        """Returns the weighted losses of all heads, named HEAD/TERM. Their sum is minimised.

        context: None: that of this batch in all processes; for accumulated batches, that of `loss_context`.
        head_targets: targets of single heads, in place of `targets`, as in `forward`.

        A learned weight adds HEAD/log_variance. It is 0, and the weight is not updated, if no process has a loss for
        the head (no labelled image, or losses of 0, as for depth without a valid pixel).
        """
        losses: Losses = {}
        context = LossContext.across_processes() if context is None else context
        for name, head in self.heads.items():
            head_context = context.for_head(name)
            own_targets = (head_targets or {}).get(name, targets)
            terms = head.loss(outputs[name], own_targets, head_context)
            weight = self.weights[name]
            if weight == "learned":
                s = self.log_variances[name]
                labelled = [all(key in target for key in head.needs) for target in own_targets]
                has_loss = torch.stack([value.detach() != 0 for value in terms.values()]).any() & any(labelled)
                counts = list(head_context.counts.values())
                active = torch.stack(counts).amax() if counts else head_context.mean(has_loss.float())
                terms = {term: torch.exp(-s) * value for term, value in terms.items()}
                terms["log_variance"] = s / 2 * (active > 0)
            else:
                terms = {term: weight * value for term, value in terms.items()}
            losses |= {f"{name}/{term}": value for term, value in terms.items()}
        return losses

    def predictions(self, outputs: Mapping[str, Outputs], targets: list[Targets]) -> dict[str, list[Predictions]]:
        """Converts outputs to predictions: for each head a list with one dict per image, in original pixels.

        Outputs in half precision are converted to float32 first.
        """
        return {name: self.heads[name].predict(in_float32(own), targets) for name, own in outputs.items()}

    @torch.no_grad()
    def infer(
        self, batch: Batch, inference: Mapping[str, InferenceSection] | None = None
    ) -> dict[str, list[Predictions]]:
        """Returns each head's predictions on a batch, one per image, in original pixels. Validation, evaluation and
        `Predictor.predict` use it.

        inference: sliding windows, flips and scales by head, from `inference_by_head`. Other heads are predicted in
        one pass; without any options, the result equals `predictions(self(batch), targets)`.
        """
        augmented = {name: options for name, options in (inference or {}).items() if not options.single_pass}
        if not augmented:
            return self.predictions(self(batch), batch["targets"])
        results: dict[str, list[Predictions]] = {}
        plain = [name for name in self.heads if name not in augmented]
        if plain:
            results |= self.predictions(self(batch, plain), batch["targets"])
        kinds = {name: isinstance(self.heads[name], DenseHead) for name in augmented}
        while augmented:  # dense heads with equal options share their passes, and so do box heads
            first, options = next(iter(augmented.items()))
            names = [name for name, own in augmented.items() if (own, kinds[name]) == (options, kinds[first])]
            windowed = test_time_augmentation if kinds[first] else tiled_detection
            results |= windowed.predictions(self, batch, options, names)
            augmented = {name: own for name, own in augmented.items() if name not in names}
        return {name: results[name] for name in self.heads}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "DenseModel":
        before = {name: getattr(self, name) for name in ("low", "high", "mean", "std")}
        super()._apply(fn, recurse)
        if self.mean.dtype in HALF:  # pixels are normalised in float32
            for name, value in before.items():
                setattr(self, name, value.to(self.mean.device))
        return self

    def train(self, mode: bool = True) -> "DenseModel":
        """Sets the training mode. Frozen modules stay in evaluation mode: no dropout, no updates of norms. So does a
        model of which all parameters are frozen, such as a teacher."""
        trained = [parameter.requires_grad for parameter in self.parameters()]
        super().train(mode and (any(trained) or not trained))
        for part in (self.backbone, *self.heads.values(), *self.necks.values()):
            for module in frozen_modules(part):
                module.eval()
        return self


def _check_last_blocks(name: str, head: Head, backbone: Backbone, has_neck: bool) -> None:
    """Raises ConfigError if a head runs more blocks of the backbone than the backbone lets it, or has a neck."""
    if not head.last_blocks:
        return
    where = f"heads.{name} ({type(head).__name__}) runs the backbone's last {counted(head.last_blocks, 'block')} itself"
    if not isinstance(backbone, TokenBackbone):
        raise ConfigError(
            f"{where}, but backbone {type(backbone).__name__} has no max_last_blocks and encode(images, counts, "
            "features), as densevit.interfaces.TokenBackbone describes. Fix: use the backbone `vit`, or another head."
        )
    if head.last_blocks > backbone.max_last_blocks:
        raise ConfigError(
            f"{where}, but backbone {type(backbone).__name__} lets heads run {backbone.max_last_blocks or 'none'} as "
            f"configured (blocks with windows are excluded). Fix: use global attention in the last blocks, or another "
            "head."
        )
    if has_neck:
        raise ConfigError(f"{where} and takes no feature maps. Fix: remove heads.{name}.neck.")


def _check_number_of_classes(name: str, head: Head) -> None:
    """Raises ConfigError for more classes than a target key of the head can represent."""
    types = TargetTypes(head.target_types)
    for key in getattr(head, "needs", ()):
        most = types[key].max_classes if key in types and types[key].task else None
        if most is not None and len(head.classes) > most:
            raise ConfigError(
                f"heads.{name}: {len(head.classes)} classes; `{key}` maps hold at most {most}. Fix: merge or leave out "
                "classes of the data set."
            )


def _check_features(backbone: Backbone, features: Any) -> None:
    """Raises PluginError unless there is one feature map (B, C, h, w) for each of the backbone's `channels`."""
    if isinstance(features, Sequence):
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in features]
        if [shape[1] if len(shape) == 4 else None for shape in shapes] == [*backbone.channels]:
            return
    found = f"features of shapes {shapes}" if isinstance(features, Sequence) else f"a {type(features).__name__}"
    raise PluginError(
        f"backbone {type(backbone).__name__}: its forward returned {found}; its channels are "
        f"{[*backbone.channels]}, so a list of {len(backbone.channels)} maps (B, C, h, w) is expected."
    )
